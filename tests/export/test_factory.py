"""`eval` and `compare` take a Python function where they take a checkpoint or a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamseg.cli.main import cli

SIZE = "64x96"
MODULE = """
from streamseg.evaluation.datasets import open_dataset
from tests.export.own_networks import ConvGRU, seeded

def build():
    dataset = open_dataset("synthetic:easy?size=64x96&scenes=1&frames=4", "val")
    return seeded(lambda: ConvGRU(tuple(entry.name for entry in dataset.classes)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a module, its bundle beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "factory_of_a_user.py").write_text(MODULE)
    call("export", "factory_of_a_user:build", "--size", SIZE, "-o", "bundle")
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_function_is_evaluated_and_compared_as_its_bundle(folder: Path) -> None:
    dataset = ("--dataset", "synthetic:easy?size=64x96&scenes=1&frames=4")
    scores = []
    for subject in ("factory_of_a_user:build", "bundle"):
        name = subject.partition(":")[0]
        size = () if subject == "bundle" else ("--size", SIZE)
        call("eval", subject, *size, *dataset, "--scaled", "labels", "--json", f"{name}.json")
        scores.append(json.loads((folder / f"{name}.json").read_text()))
    assert scores[0]["pixel_accuracy"] == pytest.approx(scores[1]["pixel_accuracy"], abs=2e-3)
    assert scores[0]["frames"] == 4
    source = ("synthetic:easy?size=64x96&frames=4", "--size", SIZE)
    assert "100.00" in call("compare", "factory_of_a_user:build", "bundle", *source)

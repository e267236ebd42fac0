"""The tables of benchmarks/families.py, family_tables.py and state_value.py, at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.families import HEADS, commit, committed_path, join
from benchmarks.label_grid import coarsen
from benchmarks.state_value import Tally
from streamseg.evaluation.datasets import VOID
from streamseg.export import load_checkpoint
from tests.conftest import ROOT


def call(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head after one step, and MPVSS with what it starts from."""
    folder = tmp_path_factory.mktemp("families")
    for name in ("cffm", "mask2former", "mpvss"):
        call("families", folder, "--steps", 1, "--scenes", 1, "--only", name)
    return folder


def test_a_head_and_the_sample_make_the_checkpoint_again(trained: Path, tmp_path: Path) -> None:
    whole = trained / "cffm" / "weights.safetensors"
    commit(whole, tmp_path / "kept.safetensors")
    join(tmp_path / "kept.safetensors", tmp_path / "again.safetensors")
    before, after = load_file(whole), load_file(tmp_path / "again.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(
        name.startswith("backbone.") for name in load_file(tmp_path / "kept.safetensors")
    )


def test_committed_heads_are_small_and_free(tmp_path: Path) -> None:
    found = [name for name in HEADS if committed_path(name).is_file()]
    assert set(found) == set(HEADS)
    for name in found:
        assert committed_path(name).stat().st_size < 2_000_000
        model = load_checkpoint(join(committed_path(name), tmp_path / "joined.safetensors"))
        assert model.family == name
        assert model.origin.license == "Apache-2.0"


def test_tables_are_made_by_one_command(trained: Path, tmp_path: Path) -> None:
    small = ("--scenes", 1, "--frames", 17, "--size", "128x256", "--results", tmp_path)
    call("family_tables", trained, "--sweep", "mpvss", "--sweep", "mrcfa", *small)
    prototypes = json.loads((tmp_path / "prototypes.json").read_text())
    assert [row["causal"] for row in prototypes["rows"]] == [True, False, True]
    schedules = json.loads((tmp_path / "schedules.json").read_text())["networks"]
    assert set(schedules) == {"mpvss", "mrcfa"}
    kept = {row["settings"]: row["frame_gmacs"] for row in schedules["mrcfa"]}
    assert kept["keep_ratio=0.3"] < kept["keep_ratio=0.5"] < kept["as trained"]
    assert kept["as trained"] < kept["keep_ratio=1"]
    work = {row["settings"]: row["frame_gmacs"] for row in schedules["mpvss"]}
    # The motion network, which is as wide as published, costs more than this small detector.
    order = ("key_interval=2", "key_interval=3", "as trained", "key_interval=8")
    assert [work[name] for name in order] == sorted(work.values())
    assert "| mpvss | key_interval=3 |" in (tmp_path / "schedules.md").read_text()


def test_finer_grids_of_scores_allow_better_labels(tmp_path: Path) -> None:
    call("label_grid", "--scenes", 1, "--frames", 1, "--results", tmp_path)
    rows = json.loads((tmp_path / "label_grid.json").read_text())["rows"]
    assert [row["grid"] for row in rows] == [[16, 32], [32, 64], [48, 96]]
    assert sorted(row["miou"] for row in rows) == [row["miou"] for row in rows]


def test_labels_of_whole_cells_survive_the_grid() -> None:
    labels = np.kron(np.array([[0, 1], [2, VOID]]), np.ones((32, 32))).astype(np.uint8)
    found = coarsen(labels, (64, 64), 3)
    np.testing.assert_array_equal(found[labels != VOID], labels[labels != VOID])


def test_state_value_of_drawn_streets_is_made_by_one_command(tmp_path: Path) -> None:
    call("state_value", "--scenes", 1, "--frames", 3, "--size", "128x256", "--results", tmp_path)
    row = json.loads((tmp_path / "state_value.json").read_text())["clips"]["drawn streets"]
    assert row["miou_oracle"] > max(row["miou_alone"], row["miou_moved"])
    assert 0 < row["repairable"] < 100


def test_tally_counts_what_scikit_learn_counts() -> None:
    from sklearn.metrics import jaccard_score

    draw = np.random.default_rng(0)
    label = draw.integers(0, 4, (20, 30), np.uint8)
    label[draw.random(label.shape) < 0.1] = VOID
    alone, moved = (draw.integers(0, 4, label.shape, np.uint8) for _ in range(2))
    inside = draw.random(label.shape) < 0.8
    tally = Tally(4)
    tally.add(label, {"alone": alone, "moved": moved}, inside)
    found, seen = tally.summary(), inside & (label != VOID)
    for name, guess in {"alone": alone, "moved": moved}.items():
        wanted = jaccard_score(label[seen], guess[seen], average="macro")
        assert found[f"miou_{name}"] == pytest.approx(100 * wanted, abs=0.01)
    wrong = seen & (alone != label)
    assert found["repairable"] == pytest.approx(100 * (moved == label)[wrong].mean(), abs=0.01)
    right = seen & (alone == label)
    assert found["spoilt"] == pytest.approx(100 * (moved != label)[right].mean(), abs=0.01)
    best = np.where(wrong & (moved == label), moved, alone)
    wanted = jaccard_score(label[seen], best[seen], average="macro")
    assert found["miou_oracle"] == pytest.approx(100 * wanted, abs=0.01)

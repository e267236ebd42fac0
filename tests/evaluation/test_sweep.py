"""A sweep over settings: each row is the network with that setting, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streamseg.cli.main import run
from streamseg.errors import CheckpointError
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.scores import evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.evaluation.sweep import parse_variant, sweep
from streamseg.export import load_checkpoint, save_checkpoint
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from tests.evaluation.models import SIZE, tiny_model, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sweep") / "tiny.safetensors")


def test_a_row_is_the_network_built_with_that_setting(
    checkpoint: Path, camvid: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    dataset = open_dataset(f"camvid:{camvid}", "train")
    rows = sweep(
        checkpoint, dataset, [{}, {"window": "8", "shift": "4"}], SegmenterOptions(size=SIZE)
    )
    model = tiny_model()
    blocks = replace(model.config.blocks, window=(8, 8), shift=(4, 4))
    other = TV3S(TV3SConfig(model.config.encoder, blocks, 11, auxiliary_width=16)).eval()
    other.load_state_dict(model.state_dict())
    other.classes = model.classes
    save_checkpoint(other, tmp_path / "o.safetensors")
    for row, path in zip(rows, (checkpoint, tmp_path / "o.safetensors"), strict=True):
        with open_segmenter(path, SegmenterOptions(size=SIZE)) as segmenter:
            expected = evaluate(segmenter, dataset)
        np.testing.assert_array_equal(row.evaluation.scores.iou, expected.scores.iou)
    assert rows[0].evaluation.scores.iou != rows[1].evaluation.scores.iou
    assert rows[1].cost.state_bytes < rows[0].cost.state_bytes
    assert rows[1].evaluation.assumed == {"window": (8, 8), "shift": (4, 4)}


def test_settings_override_the_file_only_on_request(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="but the file says 4"):
        load_checkpoint(checkpoint, settings={"window": 8})
    model = load_checkpoint(checkpoint, settings={"window": 8}, override=True)
    assert model.describe()["window"] == [8, 8]
    assert dict(model.assumed) == {"window": (8, 8)}


def test_variants_are_name_value_pairs() -> None:
    assert parse_variant("window=10 shift=5") == {"window": "10", "shift": "5"}
    for text in ("window", "window=", "=5"):
        with pytest.raises(CheckpointError, match="expected NAME=VALUE"):
            parse_variant(text)


def test_command_prints_a_table_and_writes_json(
    checkpoint: Path, camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.json"
    arguments = ["sweep", str(checkpoint), "--dataset", f"camvid:{camvid}", "--split", "train"]
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--size", "32x64", "--variant", "window=8 shift=4", "--json", str(out)])
    assert code.value.code == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["variant"] for row in rows] == [{}, {"window": "8", "shift": "4"}]
    assert all(row["frame_gmacs"] > 0 for row in rows)
    shown = capsys.readouterr().out
    assert "as trained" in shown
    assert "the same weights in every row" in shown
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--size", "32x64", "--variant", "offsets=-3"])
    assert code.value.code == 2
    assert "tv3s has no setting 'offsets'" in capsys.readouterr().err

"""The demo's checkpoint: small enough, what its card says, and better for its state."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from streamseg.cli.main import run
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.scores import EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.torch_segmenter import CheckpointSegmenter
from streamseg.export import load_checkpoint
from streamseg.training.networks import ClipNetwork
from tests.conftest import ROOT

FOLDER = ROOT / "samples" / "street"
WEIGHTS = FOLDER / "street.safetensors"
FRAME, SIZE = (128, 256), (256, 512)
HELD_OUT = "synthetic:street?size=128x256&scenes=2&frames=20"


def test_file_is_small_and_freely_licensed():
    assert WEIGHTS.stat().st_size <= 8_000_000
    model = load_checkpoint(WEIGHTS)
    assert model.origin.license == "Apache-2.0"
    assert [entry.name for entry in model.classes][:2] == ["road", "sidewalk"]


def test_file_names_its_network():
    model = load_checkpoint(WEIGHTS)
    configuration = model.configuration()
    assert (configuration["window"], configuration["shift"]) == ([2, 2], [1, 1])
    assert model.assumed == {}
    assert model.origin.training_size == "256x512"


def test_card_holds_the_recorded_figures():
    card = (FOLDER / "MODEL_CARD.md").read_text()
    for name in ("street", "reset", "baseline", "longer"):
        record = json.loads((FOLDER / f"{name}.json").read_text())
        for key in ("miou", "mvc8"):
            assert f"{record[key] * 100:.2f}" in card, (name, key)


def test_whole_clip_equals_stepping():
    model = load_checkpoint(WEIGHTS).eval()
    clip = open_dataset(HELD_OUT, "val").clips[0]
    frames = torch.from_numpy(np.stack([clip[i].image for i in range(8)]))
    with torch.inference_mode():
        whole, _ = ClipNetwork(model)(frames[None])
        state = model.initial_state(FRAME)
        for index, frame in enumerate(frames):
            scores, *state = model.score(frame[None], *state)
            assert (scores[0] - whole[0, index]).abs().max() < 1e-4


@pytest.mark.parametrize("margin", [0.03])
def test_state_steadies_held_out_scenes(margin):
    dataset = open_dataset(HELD_OUT, "val")
    scores = {}
    for stateless in (False, True):
        options = SegmenterOptions(size=SIZE)
        with CheckpointSegmenter(WEIGHTS, options, SIZE) as segmenter:
            scores[stateless] = evaluate(
                segmenter, dataset, EvaluationOptions(history=1 if stateless else None)
            ).scores
    assert scores[False].pixel_accuracy > 0.85
    assert scores[False].mvc[8] > scores[True].mvc[8] + margin
    assert scores[False].miou > scores[True].miou


def test_history_table_is_made_by_one_command(tmp_path):
    """The command of ``make verify-history``, at a small size."""
    out = tmp_path / "history.json"
    drawn = "synthetic:street?size=128x256&scenes=1&frames=7"
    arguments = ["eval", str(WEIGHTS), "--size", "256x512", "--dataset", drawn, "--split", "test"]
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--history", "1,4,all", "--json", str(out)])
    assert code.value.code == 0
    content = json.loads(out.read_text())
    rows = content["lengths"]
    assert content["skipped"] == 4
    assert [(row["history"], row["frames"], row["steps"]) for row in rows] == [
        (1, 3, 3),
        (4, 3, 12),
        ("all", 3, 3),
    ]
    assert all(row["miou"] > 0.3 for row in rows)


def test_temporal_table_is_made_by_one_command(tmp_path):
    """The commands of ``make verify-temporal``, at a small size."""
    drawn = "synthetic:street?size=128x256&scenes=1&frames=3"
    found = {}
    for reset in (False, True):
        out = tmp_path / f"{reset}.json"
        arguments = ["eval", str(WEIGHTS), "--size", "256x512", "--split", "test"]
        arguments += ["--dataset", drawn, "--mvc", "2", "--boundary", "--flow", "dis"]
        with pytest.raises(SystemExit) as code:
            run([*arguments, *(["--stateless"] if reset else []), "--json", str(out)])
        assert code.value.code == 0
        found[reset] = json.loads(out.read_text())
    for name in ("mvc2", "tc", "boundary_f"):
        assert 0 < found[True][name] < found[False][name] < 1, name
    assert found[False]["flicker_rate"] < found[True]["flicker_rate"]

"""Classes are matched by name: a model stored in another order scores the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamseg.cli.main import run
from streamseg.errors import BundleError, DatasetError
from streamseg.evaluation.class_matching import ClassesBy, NamedClasses, match_classes
from streamseg.evaluation.datasets import label_classes, open_dataset
from streamseg.evaluation.drift import ComparisonOptions, compare
from streamseg.evaluation.scores import Evaluation, EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.export import export_bundle, save_checkpoint
from streamseg.export.models.tv3s import TV3S
from streamseg.runtime.bundle.manifest import ClassInfo
from tests.evaluation.models import SIZE, tiny_model

NAMES = [entry.name for entry in label_classes.CAMVID]
SHUFFLED = [[int(i) for i in np.random.default_rng(seed).permutation(11)] for seed in (1, 2)]
ORDERS = [list(range(10, -1, -1)), *SHUFFLED]


def ordered_model(order: list[int], names: list[str]) -> TV3S:
    """The tiny network with the rows of its classifiers, and its names, in another order."""
    model = tiny_model(11)
    with torch.no_grad():
        for layer in (model.decode_head.linear_pred2, model.decode_head.linear_pred):
            layer.weight.copy_(layer.weight[order])
            layer.bias.copy_(layer.bias[order])
    model.classes = tuple(
        ClassInfo(place, names[index], (index, 0, 0)) for place, index in enumerate(order)
    )
    return model


def score(path: Path, camvid: Path, classes_by: ClassesBy = "name") -> Evaluation:
    with open_segmenter(path, SegmenterOptions(size=SIZE)) as segmenter:
        dataset = open_dataset(f"camvid:{camvid}", "val")
        return evaluate(segmenter, dataset, EvaluationOptions(classes_by=classes_by))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("straight") / "c.safetensors"
    save_checkpoint(ordered_model(list(range(11)), NAMES), path)
    return path


@pytest.mark.parametrize("order", ORDERS, ids=["reversed", "shuffled", "shuffled again"])
def test_order_of_classes_does_not_change_the_score(
    order: list[int], straight: Path, camvid: Path, tmp_path: Path
) -> None:
    expected = score(straight, camvid)
    save_checkpoint(ordered_model(order, NAMES), tmp_path / "c.safetensors")
    got = score(tmp_path / "c.safetensors", camvid)
    assert got.classes_matched == "by name"
    np.testing.assert_allclose(got.scores.iou, expected.scores.iou, atol=1e-9)
    assert got.scores.mvc == expected.scores.mvc
    forced = score(tmp_path / "c.safetensors", camvid, classes_by="position")
    assert forced.classes_matched == "by position (--classes-by position)"
    assert not np.allclose(forced.scores.iou, expected.scores.iou, equal_nan=True)


@pytest.mark.parametrize("logits", [True, False])
def test_comparison_finds_a_reordered_network_equal(
    logits: bool, straight: Path, camvid: Path, tmp_path: Path
) -> None:
    model = ordered_model(ORDERS[1], NAMES)
    export_bundle(model, tmp_path / "b", size=SIZE, logits=logits)
    clip = open_dataset(f"footage:{camvid / 'val'}").clips[0]
    with (
        open_segmenter(straight, SegmenterOptions(size=SIZE)) as a,
        open_segmenter(tmp_path / "b", SegmenterOptions()) as b,
    ):
        result = compare(a, b, clip, ComparisonOptions(frames=3))
    assert result.classes_matched == "by name"
    assert min(frame.agreement for frame in result.frames) > 0.999
    if logits:
        assert max(frame.logits or 0.0 for frame in result.frames) < 1e-3


def test_other_classes_are_refused_with_both_lists(camvid: Path, tmp_path: Path) -> None:
    names = [*NAMES[:10], "horse"]
    save_checkpoint(ordered_model(list(range(11)), names), tmp_path / "c.safetensors")
    with pytest.raises(DatasetError) as caught:
        score(tmp_path / "c.safetensors", camvid)
    message = str(caught.value)
    assert "c.safetensors: horse; only camvid: bicyclist" in message
    assert "0 sky, 1 building" in message
    assert "--classes-by position" in message
    assert score(tmp_path / "c.safetensors", camvid, classes_by="position").scores.frames == 20


def test_side_without_names_is_matched_by_position_and_reported(
    camvid: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(tiny_model(11), path)
    got = score(path, camvid)
    assert got.classes_matched == f"by position: {path} has no class names"
    assert got.as_json()["classes_matched"] == got.classes_matched


def test_numbers_of_classes_must_agree() -> None:
    first, second = NamedClasses("A", ("road", "car")), NamedClasses("B", ("road",))
    for classes_by in ("name", "position"):
        with pytest.raises(DatasetError, match=r"A has 2 classes and B 1.*A: 0 road, 1 car\. B: 0"):
            match_classes(first, second, classes_by=classes_by)  # type: ignore[arg-type]


def test_translation_keeps_what_has_no_class() -> None:
    first = NamedClasses("A", ("road", "car", "sky"))
    match = match_classes(first, replace(first, owner="B", names=("sky", "road", "car")))
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    assert match.translate(labels).tolist() == [[1, 2, 0, 255]]
    logits = np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    assert match.reorder(logits).ravel().tolist() == [2, 0, 1]


def test_command_reports_what_was_matched_and_assumed(
    camvid: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    arguments = ["eval", str(straight), "--size", "32x64", "--dataset", f"camvid:{camvid}"]
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--json", str(out), "--set", "window=4"])
    assert code.value.code == 0
    assert "classes matched" in capsys.readouterr().out
    assert json.loads(out.read_text())["assumed"] == {}
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--set", "window=8"])
    assert code.value.code == 2
    assert "window is 8 in --set, but the file says 4" in capsys.readouterr().err


def test_report_of_a_checkpoint_without_settings_lists_assumptions(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from streamseg.export.checkpoint import published_weights

    path, out = tmp_path / "c.pth", tmp_path / "r.json"
    torch.save(published_weights(tiny_model(11)), path)
    arguments = ["eval", str(path), "--size", "160x160", "--dataset", f"camvid:{camvid}"]
    with pytest.raises(SystemExit):
        run([*arguments, "--json", str(out)])
    message = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "window 20 and shift 10 assumed: not recorded in the file" in message
    assert json.loads(out.read_text())["assumed"]["window"] == [20, 20]


def test_settings_of_a_bundle_are_fixed(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(BundleError, match="--set is for checkpoints"):
        open_segmenter(tmp_path / "b", SegmenterOptions(settings={"window": 2}))

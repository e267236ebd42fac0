"""A bundle scored against its own labels is right everywhere, however frames are fitted."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import streamseg
from streamseg.cli.main import cli
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.scores import EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from tests.evaluation.models import write_bundle
from tests.evaluation.trees import write_image

FRAMES = {"wider": (40, 100), "taller": (70, 50), "odd": (33, 57), "square": (64, 64)}
NAMES = [f"0016E5_{7959 + 2 * i:05d}" for i in range(5)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    folder = tmp_path_factory.mktemp("own")
    found = {}
    for logits in (True, False):
        for resize in ("stretch", "letterbox"):
            path = write_bundle(folder / f"{resize}-{logits}", logits=logits)
            manifest = json.loads((path / "manifest.json").read_text())
            manifest["frame"]["resize"] = resize
            (path / "manifest.json").write_text(json.dumps(manifest))
            found[resize, logits] = path
    return found


def write_tree(root: Path, bundle: Path, size: tuple[int, int]) -> Path:
    """A CamVid tree whose labels are what ``step`` gives."""
    with streamseg.open(bundle) as stream:
        for i, name in enumerate(NAMES):
            write_image(root / "val" / f"{name}.png", i, size=size)
            image = cv2.cvtColor(cv2.imread(str(root / "val" / f"{name}.png")), cv2.COLOR_BGR2RGB)
            labels = stream.step(image).labels
            (root / "valannot").mkdir(exist_ok=True)
            cv2.imwrite(str(root / "valannot" / f"{name}.png"), labels)
    return root


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("logits", [True, False], ids=["logits", "labels"])
@pytest.mark.parametrize("shape", FRAMES)
def test_every_consumer_agrees_with_step(
    bundles: dict[tuple[str, bool], Path], resize: str, logits: bool, shape: str, tmp_path: Path
) -> None:
    bundle = bundles[resize, logits]
    root = write_tree(tmp_path / "camvid", bundle, FRAMES[shape])
    dataset = open_dataset(f"camvid:{root}", "val")
    with open_segmenter(bundle, SegmenterOptions()) as segmenter:
        found = evaluate(segmenter, dataset, EvaluationOptions(classes_by="position"))
    assert found.scores.pixel_accuracy == 1.0
    assert found.scores.miou == 1.0
    arguments = [
        "run",
        str(bundle),
        str(root / "val"),
        "--labels",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(cli, [*arguments, "--gap-reset", "0.5"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = sorted((tmp_path / "out").glob("*.png"))
    for path, name in zip(written, NAMES, strict=True):
        label = cv2.imread(str(root / "valannot" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), label)


def test_placement_brings_logits_to_the_frame(bundles: dict[tuple[str, bool], Path]) -> None:
    """A frame of the inner picture's size: its logits are those of the region, unchanged."""
    image = np.random.default_rng(0).integers(0, 256, (32, 20, 3), np.uint8)
    with streamseg.open(bundles["letterbox", True]) as stream:
        result = stream.step(image)
        assert result.logits is not None
        assert (result.placement.region.left, result.placement.region.right) == (22, 42)
        scores = result.placement.scores(result.logits)
        np.testing.assert_array_equal(scores, result.logits[:, :, 22:42].transpose(1, 2, 0))
        np.testing.assert_array_equal(scores.argmax(-1), result.labels)


def test_scaled_logits_need_logits(bundles: dict[tuple[str, bool], Path]) -> None:
    with pytest.raises(streamseg.StreamsegError, match="has no logits to scale"):
        open_segmenter(bundles["stretch", False], SegmenterOptions(scaled="logits"))

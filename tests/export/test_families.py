"""What every family has by one contract: streams beside each other, evaluation, calibration."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

import streamseg
from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.errors import DatasetError
from streamseg.evaluation.clustering import store_given
from streamseg.evaluation.datasets import Dataset, LabelledFrame, SegmentationClass, open_dataset
from streamseg.evaluation.scores import EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.export.parity import moving_pattern
from streamseg.runtime.bundle.bundle import read_bundle
from tests.conftest import TinyBundle
from tests.export import tiny

FRAMES = moving_pattern(tiny.SIZE, 12)  # past the warm-up of rings and two key frames


@dataclass(frozen=True)
class Drawn:
    """A labelled clip in memory."""

    name: str
    frames: tuple[LabelledFrame, ...]
    fps: float | None = None

    @property
    def frame_count(self) -> int:
        return len(self.frames)

    label_count = frame_count

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.frames)


@pytest.fixture(params=tiny.FAMILIES)
def bundle(request: pytest.FixtureRequest, tiny_bundle: TinyBundle, tmp_path: Path) -> Path:
    """A bundle of each family, with prototypes where it needs some."""
    path = tiny_bundle(request.param, "fp32")
    for spec in read_bundle(path).manifest.state:
        if spec.kind == "given":
            path = Path(shutil.copytree(path, tmp_path / "given"))
            values = np.random.default_rng(0).standard_normal(spec.shape)
            store_given(path, spec.name, values.astype(spec.dtype))
    return path


def play(stream: streamseg.Stream, frames: list[np.ndarray]) -> list[np.ndarray]:
    return [np.copy(stream.step(frame).logits) for frame in frames]


def test_streams_beside_each_other_are_those_alone(bundle: Path) -> None:
    backwards = FRAMES[::-1]
    with streamseg.open(bundle, native=False, threads=1) as first:
        alone = play(first, FRAMES)
        first.reset()
        other = play(first, backwards)
        first.reset()
        second = first.sibling()
        together = [
            (np.copy(first.step(a).logits), np.copy(second.step(b).logits))
            for a, b in zip(FRAMES, backwards, strict=True)
        ]
        for (a, b), wanted_a, wanted_b in zip(together, alone, other, strict=True):
            assert np.array_equal(a, wanted_a)
            assert np.array_equal(b, wanted_b)
        first.reset()
        play(first, FRAMES[:7])
        saved = first.snapshot()
        play(first, backwards)
        first.restore(saved)
        again = play(first, FRAMES[7:])
    assert all(np.array_equal(a, b) for a, b in zip(again, alone[7:], strict=True))


def test_evaluation_steps_as_a_stream_does(bundle: Path) -> None:
    with streamseg.open(bundle, native=False) as stream:
        labels = [np.copy(stream.step(frame).labels) for frame in FRAMES]
        fresh = []
        for image, label in zip(FRAMES, labels, strict=True):
            stream.reset()
            fresh.append(stream.step(image).labels == label)
    frames = tuple(
        LabelledFrame(str(i), image, label, None)
        for i, (image, label) in enumerate(zip(FRAMES, labels, strict=True))
    )
    classes = tuple(SegmentationClass(f"class {i}", (i, i, i)) for i in range(tiny.CLASSES))
    clips = tuple(Drawn(name, frames) for name in ("a", "b"))
    dataset = Dataset("drawn", Path(), "val", clips, classes)
    with open_segmenter(bundle, SegmenterOptions(native=False)) as segmenter:
        kept = evaluate(segmenter, dataset).scores
        forgotten = evaluate(segmenter, dataset, EvaluationOptions(history=1)).scores
    assert (kept.pixel_accuracy, kept.frames) == (1.0, 24)
    assert forgotten.pixel_accuracy == pytest.approx(np.mean(fresh))


def write_frames(folder: Path, count: int) -> Dataset:
    folder.mkdir()
    for index, image in enumerate(FRAMES[:count]):
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return open_dataset(f"footage:{folder}")


@pytest.mark.parametrize(("family", "graph"), [("cffm", "step"), ("mpvss", "propagate")])
def test_graph_that_no_frame_reaches_is_reported(
    family: str, graph: str, tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    dataset = write_frames(tmp_path / "clip", 6)
    options = CalibrationOptions(clips=1, clip_frames=6, native=False, order="shuffled")
    path = tiny_bundle(family, "fp32")
    with pytest.raises(DatasetError, match=f"no frame reached the bundle's graph '{graph}'"):
        calibrate(path, tmp_path / "int8", dataset, options, report=False)
    assert not (tmp_path / "int8").exists()


def test_every_graph_becomes_int8(bundle: Path, tmp_path: Path) -> None:
    dataset = write_frames(tmp_path / "clip", 6)
    options = CalibrationOptions(clips=1, clip_frames=6, native=False)
    result = calibrate(bundle, tmp_path / "int8", dataset, options, report=False)
    found = read_bundle(result.path)
    assert found.manifest.precision_name == "int8"
    assert result.bytes < result.float_bytes
    for name, content in found.graphs.items():
        assert b"QuantizeLinear" in content, name
    with (
        streamseg.open(bundle, native=False) as ours,
        streamseg.open(result.path, native=False) as theirs,
    ):
        for wanted, got in zip(play(ours, FRAMES), play(theirs, FRAMES), strict=True):
            assert 0 < np.linalg.norm(got - wanted) < 0.3 * np.linalg.norm(wanted)

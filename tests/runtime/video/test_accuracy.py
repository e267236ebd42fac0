from __future__ import annotations

import numpy as np
import pytest

from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.loop.pipeline import run_stream
from streamseg.runtime.sources import Frame, open_source
from streamseg.runtime.video.accuracy import AccuracyMeter
from streamseg.runtime.video.overlay import Overlay, write_caption
from streamseg.scenes import SCENE_CLASSES
from tests.runtime.loop.test_pipeline import CountingStream, MemorySink

STREET = tuple(
    ClassInfo(number, SCENE_CLASSES.get(number, "other"), (number, 0, 0)) for number in range(19)
)


def test_meter_agrees_with_hand_counts() -> None:
    meter = AccuracyMeter(STREET)
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    meter.add(np.array([[0, 0, 1, 2]], np.uint8), truth)
    assert meter.latest == 0.75
    # road 2/2, sidewalk 1/2, building 0/1.
    assert meter.miou == pytest.approx((1 + 0.5 + 0) / 3)
    meter.add(np.array([[0, 0, 1, 1]], np.uint8), truth)
    assert (meter.latest, meter.pixel_accuracy, meter.frames) == (1.0, 7 / 8, 2)
    assert meter.miou == pytest.approx((1 + 3 / 4 + 0) / 3)
    assert meter.caption == "correct: 100.0% of this frame, mIoU 58.3% so far"


def test_pixels_without_a_class_are_wrong() -> None:
    meter = AccuracyMeter(STREET)
    meter.add(np.array([[255, 10]], np.uint8), np.array([[10, 10]], np.uint8))
    assert meter.latest == 0.5


def test_other_classes_have_no_accuracy() -> None:
    assert AccuracyMeter.fits(STREET)
    assert not AccuracyMeter.fits(STREET[:5])
    assert not AccuracyMeter.fits((ClassInfo(0, "sky", (0, 0, 0)), *STREET[1:]))


def test_caption_is_a_band_along_the_lower_edge() -> None:
    picture = np.full((120, 240, 3), 200, np.uint8)
    write_caption(picture, "correct: 93.1% of this frame, mIoU 70.0% so far")
    assert (picture[:100] == 200).all()
    assert picture[-12:].min() < 100
    assert picture[-12:, :200].max() > 200


class SceneStream(CountingStream):
    """Knows the scene's labels, and gets the second frame half wrong."""

    def begin(self, frame):
        assert frame.truth is not None
        super().begin(frame)
        self._labels[...] = frame.truth
        if self.steps == 2:
            self._labels[: len(self._labels) // 2] = 3


class PictureSink(MemorySink):
    def write(self, frame) -> None:
        self.labels.append(int(frame.picture[-2].max()))


def test_run_on_a_scene_reports_its_accuracy() -> None:
    sink, meter = PictureSink(), AccuracyMeter(STREET)
    with open_source("synthetic:clean?size=64x128&frames=4") as source:
        run_stream(SceneStream(), source, Overlay(STREET), [sink], inspect=meter.inspect)
    assert meter.frames == 4
    assert meter.pixel_accuracy == pytest.approx(3.5 / 4)
    assert "4 frames: 87.50% of pixels correct" in meter.sentence


def test_frames_without_truth_are_not_counted() -> None:
    meter = AccuracyMeter(STREET)
    frame = Frame(np.zeros((4, 6, 3), np.uint8), 0, 0.0)
    meter.inspect(frame, np.zeros((4, 6), np.uint8), None)
    assert meter.frames == 0

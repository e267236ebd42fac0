"""Results for Pillow and supervision."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import streamseg
from streamseg.errors import StreamsegError
from streamseg.runtime import from_pil, to_detections, to_pil
from tests.runtime.toy import write_toy_bundle


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> streamseg.StepResult:
    frame = np.zeros((12, 16, 3), np.uint8)
    frame[2:, 5:] = (10, 250, 90)
    with streamseg.open(write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")) as stream:
        for _ in range(4):
            result = stream.step(frame)
    return result


def test_pillow_picture_is_a_frame(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image = Image.fromarray(pixels)
    assert np.array_equal(from_pil(image), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(from_pil(Image.open(tmp_path / "turned.png")), np.rot90(pixels, -1))
    assert from_pil(image.convert("RGBA")).shape == (4, 6, 3)
    assert from_pil(image.convert("L")).shape == (4, 6, 3)


def test_result_is_a_pillow_picture(result: streamseg.StepResult) -> None:
    assert np.array_equal(np.asarray(to_pil(result)), result.overlay())
    labels = to_pil(result, kind="labels")
    assert np.array_equal(np.asarray(labels), result.labels)
    colors = {entry.id: entry.color for entry in result.classes}
    assert labels.convert("RGB").getpixel((15, 11)) == colors[result.labels[11, 15]]


def test_result_is_detections_of_supervision(result: streamseg.StepResult) -> None:
    pytest.importorskip("supervision", reason="supervision is not installed")
    found = to_detections(result)
    assert len(found) == len(result.areas()) > 1
    for box, mask, number in zip(found.xyxy, found.mask, found.class_id, strict=True):
        assert np.array_equal(mask, result.labels == number)
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    names = {entry.id: entry.name for entry in result.classes}
    assert [names[number] for number in found.class_id] == found.data["class_name"].tolist()


def test_result_without_any_class_has_no_detections(result: streamseg.StepResult) -> None:
    pytest.importorskip("supervision", reason="supervision is not installed")
    kept = result.labels.copy()
    result.labels[:] = 255
    try:
        assert len(to_detections(result)) == 0
    finally:
        result.labels[:] = kept


def test_missing_library_is_named(
    result: streamseg.StepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(StreamsegError, match="pip install supervision"):
        to_detections(result)

"""What a step hands out, compared with what Pillow reads and counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import streamseg
from streamseg.errors import SinkError
from tests.runtime.toy import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


def picture() -> np.ndarray:
    frame = np.zeros((12, 16, 3), np.uint8)
    frame[:, 5:] = (10, 250, 90)
    return frame


@pytest.fixture
def result(bundle: Path) -> streamseg.StepResult:
    with streamseg.open(bundle) as stream:
        for _ in range(4):
            result = stream.step(picture())
    return result


def test_areas_are_what_pillow_counts(result: streamseg.StepResult) -> None:
    counts = Image.fromarray(result.labels).histogram()
    names = {entry.id: entry.name for entry in result.classes}
    expected = {names[i]: count / (12 * 16) for i, count in enumerate(counts) if count}
    assert len(expected) > 1
    assert result.areas() == pytest.approx(expected)
    assert list(result.areas().values()) == sorted(expected.values(), reverse=True)


def test_pixels_without_a_class_are_counted_as_none(result: streamseg.StepResult) -> None:
    result.labels[0] = 255
    assert result.areas()["none"] == pytest.approx(1 / 12)


def test_overlay_mixes_frame_and_class_colour(result: streamseg.StepResult) -> None:
    colors = {entry.id: entry.color for entry in result.classes}
    drawn = result.overlay(opacity=0.25, legend=False)
    for y, x in ((0, 0), (11, 15), (6, 4)):
        expected = 0.75 * picture()[y, x] + 0.25 * np.array(colors[result.labels[y, x]])
        assert np.abs(drawn[y, x] - expected).max() <= 1
    assert np.array_equal(result.frame, picture())


def test_saved_pictures_are_read_back_by_pillow(
    result: streamseg.StepResult, tmp_path: Path
) -> None:
    path = result.save(tmp_path / "overlay.png")
    assert np.array_equal(np.asarray(Image.open(path)), result.overlay())
    path = result.save(tmp_path / "labels.png", kind="labels")
    assert np.array_equal(np.asarray(Image.open(path)), result.labels)
    path = result.save(tmp_path / "overlay.jpg")
    assert path.read_bytes().startswith(b"\xff\xd8\xff")
    assert sorted(entry.suffix for entry in tmp_path.iterdir()) == [".jpg", ".png", ".png"]


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "labels"), ("a.bmp", "overlay"), ("a", "x")])
def test_other_files_are_refused(
    result: streamseg.StepResult, tmp_path: Path, name: str, kind: str
) -> None:
    with pytest.raises(SinkError, match=r"expected kind 'overlay' \(.png, .jpg\)"):
        result.save(tmp_path / name, kind=kind)  # type: ignore[arg-type]


def test_place_that_cannot_be_written_is_refused(
    result: streamseg.StepResult, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SinkError, match="file"):
        result.save(tmp_path / "file" / "a.png")


def test_representations_name_what_matters(bundle: Path) -> None:
    with streamseg.open(bundle) as stream:
        assert repr(stream).startswith("Stream(toy none, 3 classes, 6x8, onnxruntime ")
        assert repr(stream).endswith(", step 0)")
        result = stream.step(picture())
        assert repr(stream).endswith(", step 1)")
    assert repr(stream).endswith(", closed)")
    name, share = next(iter(result.areas().items()))
    assert repr(result).startswith(f"StepResult(step 0, 12x16: {name} {share:.0%}")

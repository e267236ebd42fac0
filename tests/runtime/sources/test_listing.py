"""What counts of a folder: the same files for a source and for a dataset."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from streamseg.errors import SourceError
from streamseg.evaluation.datasets.footage import open_footage
from streamseg.runtime.sources import open_source
from tests.runtime.clips import write_clip


def write_image(path: Path, level: int) -> bytes:
    """A grey image of one level, written by Pillow."""
    PillowImage.new("RGB", (64, 48), (level, level, level)).save(path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images that count, beside all that does not."""
    images = tmp_path / "images"
    images.mkdir()
    for number, level in ((2, 50), (10, 100), (1, 0)):
        write_image(images / f"f{number}.png", level)
    (images / "._f1.png").write_bytes(b"what macOS writes")
    (images / ".hidden.png").write_bytes(write_image(tmp_path / "x.png", 7))
    (images / "f5.png").mkdir()
    (images / "f6.png").symlink_to(tmp_path / "nowhere")
    (images / "notes.txt").write_text("f7")
    (images / "f3.png").symlink_to(tmp_path / "x.png")
    return images


def test_sources_and_datasets_list_the_same_files_in_the_same_order(folder: Path) -> None:
    with open_source(str(folder)) as source:
        levels = [int(frame.image[0, 0, 0]) for frame in source]
        assert (source.corrupt, source.frame_count) == (0, 4)
    assert levels == [0, 50, 7, 100]
    (clip,) = open_footage(folder).clips
    assert [int(frame.image[0, 0, 0]) for frame in clip] == levels


@pytest.mark.parametrize("damage", ["empty", "text", "cut png", "cut jpeg"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_damaged_images_are_counted_and_left_out(tmp_path: Path, damage: str, place: int) -> None:
    whole = {
        "cut png": write_image(tmp_path / "whole.png", 9),
        "cut jpeg": write_image(tmp_path / "whole.jpg", 9),
    }
    content = {"empty": b"", "text": b"no image"}.get(damage) or whole.get(damage, b"")[:-40]
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        if number == place:
            (images / f"{number}.png").write_bytes(content)
        else:
            write_image(images / f"{number}.png", 10 * number)
    with open_source(str(images)) as source:
        frames = list(source)
        assert source.corrupt == 1
    good = [number for number in range(4) if number != place]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10 * number for number in good]
    assert [frame.timestamp for frame in frames] == pytest.approx([n / 25 for n in good])


def test_folder_of_damaged_images_only_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"2\.png is not an image"):
        open_source(str(tmp_path))


def test_single_damaged_image_is_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"a\.png is cut off after"):
        open_source(str(tmp_path / "a.png"))


def test_folder_of_videos_and_a_stray_image_is_reported(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=3)
    write_clip(tmp_path / "b.mp4", frames=3)
    with pytest.raises(SourceError, match=r"holds 2 videos, such as a\.mp4; give one"):
        open_source(str(tmp_path))
    write_image(tmp_path / "thumb.png", 0)
    with pytest.raises(SourceError, match=r"2 videos.*and 1 image, such as thumb\.png; give one"):
        open_source(str(tmp_path))
    for number in range(3):
        write_image(tmp_path / f"{number}.png", 0)
    with open_source(str(tmp_path)) as source:
        assert source.detail == "2 videos beside the images skipped"
        assert len(list(source)) == 4

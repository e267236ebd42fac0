"""Overlays as pictures, read back with Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from streamseg.errors import SinkError
from streamseg.runtime.sinks.pictures import PictureSink, open_overlay
from streamseg.runtime.sources import open_source
from tests.cli.test_run import call, refusal
from tests.runtime.clips import small_disk, write_clip, write_folder
from tests.runtime.sinks.test_sinks import names, noisy, segmented
from tests.runtime.toy import write_toy_bundle


@dataclass
class NamedSource:
    frame_count: int | None = None
    name: str = "clip.mp4"
    fps: float = 25.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy")


def read(path: Path) -> np.ndarray[Any, Any]:
    with Pictures.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_picture_is_the_overlay_in_rgb(tmp_path: Path) -> None:
    path, frame = tmp_path / "new/o.png", segmented(3)
    sink = PictureSink(path)
    sink.write(frame)
    assert not path.exists()
    assert sink.finish() == f"{path}: 1 frame, 48x64"
    np.testing.assert_array_equal(read(path), frame.picture)
    assert names(path.parent) == ["o.png"]


def test_jpeg_is_close(tmp_path: Path) -> None:
    path, frame = tmp_path / "o.JPG", segmented(3)
    sink = PictureSink(path)
    sink.write(frame)
    sink.finish()
    assert np.abs(read(path).astype(int) - frame.picture).mean() < 4


def test_second_frame_is_refused_and_the_older_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "o.png"
    path.write_bytes(b"older")
    sink = PictureSink(path, "clip.mp4")
    sink.write(segmented(0))
    with pytest.raises(SinkError, match=r"cannot write clip.mp4 to .*, which holds one picture"):
        sink.write(segmented(1))
    sink.discard()
    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["o.png"]
    empty = PictureSink(path)
    assert empty.finish().endswith("no frames, not written")
    assert path.read_bytes() == b"older"


def test_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        sink = PictureSink(disk / "o.png")
        with pytest.raises(SinkError, match=r"o\.png"):
            sink.write(noisy(0, (300, 400)))
        sink.discard()
        assert names(disk) == []


@pytest.mark.parametrize(("count", "frames"), [(None, None), (2, None), (None, 3), (40, 2)])
def test_sources_of_several_frames_need_a_video_or_a_folder(
    count: int | None, frames: int | None, tmp_path: Path
) -> None:
    source: Any = NamedSource(count)
    expected = r"clip.mp4 to .*o\.png.*video such as o\.mp4, a folder such as o/, or .*--frames 1"
    with pytest.raises(SinkError, match=expected):
        open_overlay(tmp_path / "o.png", source, frames)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["o.avi", "o.gif", "o.tiff", ".png.part"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    source: Any = NamedSource(1)
    with pytest.raises(SinkError, match=r"expected a file in \.mp4 .*\.png .* or a folder"):
        open_overlay(tmp_path / name, source)
    assert names(tmp_path) == []


def test_image_gives_one_picture(bundle: Path, tmp_path: Path) -> None:
    image = write_folder(tmp_path / "images", [(32, 40)]) / "1.png"
    assert call("run", bundle, image, "--out", tmp_path / "o.png", "--opacity", 0) == 0
    drawn = read(tmp_path / "o.png")
    assert drawn.shape == (32, 40, 3)
    # The legend covers a part of the picture; the rest is the picture.
    assert (drawn == read(image)).all(axis=2).mean() > 0.85


def test_first_frame_of_a_clip_and_folders_of_pictures(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    error = refusal(capsys, "run", bundle, clip, "--out", tmp_path / "o.png")
    assert "which holds one picture: name a video such as o.mp4" in error
    assert call("run", bundle, clip, "--out", tmp_path / "o.png", "--frames", 1) == 0
    folder = tmp_path / "pictures"
    assert call("run", bundle, clip, "--out", folder) == 0
    assert names(folder) == ["000000.png", "000001.png", "000002.png"]
    np.testing.assert_array_equal(read(folder / "000000.png"), read(tmp_path / "o.png"))


def test_stream_run_writes_pictures_too(bundle: Path, tmp_path: Path) -> None:
    import streamseg

    image = write_folder(tmp_path / "images", [(32, 40)]) / "1.png"
    with streamseg.open(bundle) as stream, open_source(str(image)) as source:
        report = stream.run(source, out=tmp_path / "o.png")
        assert report.outputs == [f"{tmp_path / 'o.png'}: 1 frame, 32x40"]
        with pytest.raises(SinkError, match="which holds one picture"):
            stream.run(str(write_clip(tmp_path / "c.mp4", frames=2)), out=tmp_path / "o.png")

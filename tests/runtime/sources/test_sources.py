from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import SourceOptions, open_source
from streamseg.runtime.sources.camera import CameraReader, list_cameras
from streamseg.runtime.sources.listing import natural_key
from streamseg.runtime.sources.streaming import StreamingSource
from tests.runtime.clips import gradient_frame, join_clips, write_clip, write_folder


def test_video_gives_every_frame_with_index_and_time(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=7)
    with open_source(str(path)) as source:
        assert (source.fps, source.frame_count, source.size) == (10.0, 7, (48, 64))
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(7))
    assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(7) / 10)
    assert source.corrupt == 0
    for frame in frames:
        expected = gradient_frame(frame.index, (48, 64)).astype(int)
        assert abs(frame.image - expected).mean() < 4


def test_file_uri_opens_the_same_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=2)
    with open_source(f"file://{path}") as source:
        assert len(list(source)) == 2


def test_video_frames_carry_their_own_size(tmp_path: Path) -> None:
    path = join_clips(tmp_path / "joined.ts", [(48, 64), (32, 80)])
    with open_source(str(path)) as source:
        sizes = [frame.size for frame in source]
    assert sizes == [(48, 64)] * 5 + [(32, 80)] * 5


def test_rotated_video_comes_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=2)
    with open_source(str(path)) as source:
        plain = next(iter(source)).image
    content = bytearray(path.read_bytes())
    # The matrix of a track header that asks players to turn the picture clockwise by 90 degrees.
    place = content.index(b"tkhd") + 44
    one, minus = 1 << 16, (1 << 32) - (1 << 16)
    content[place : place + 36] = struct.pack(">9I", 0, one, 0, minus, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(content)
    with open_source(str(path)) as source:
        assert source.size == (64, 48)
        turned = next(iter(source)).image
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


def test_damaged_packets_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=10)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)
    with open_source(str(path)) as source:
        frames = list(source)
        assert source.corrupt >= 1
    assert 1 <= len(frames) < 10
    assert [frame.index for frame in frames] == list(range(len(frames)))


def test_cut_off_video_ends_early(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with open_source(str(path)) as source:
        assert 1 <= len(list(source)) < 10


def test_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such video: .*none\.mp4"):
        open_source(str(tmp_path / "none.mp4"))


@pytest.mark.parametrize("content", [b"", b"hello, this is a text\n" * 50, bytes(5000)])
@pytest.mark.parametrize("name", ["clip.mp4", "notes.txt"])
def test_file_that_is_not_a_video_is_rejected(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="is not a video"):
        open_source(str(tmp_path / name))


def test_video_without_its_index_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", faststart=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match="truncated"):
        open_source(str(path))


def test_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.ts", frames=1)
    path.write_bytes(path.read_bytes()[: 3 * 188])
    with pytest.raises(SourceError, match=r"holds no frame|is not a video"):
        open_source(str(path))


def test_folder_gives_images_in_natural_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", [(12, 16)] * 11)
    (folder / "notes.txt").write_text("not an image")
    with open_source(str(folder)) as source:
        assert (source.frame_count, source.size, source.fps) == (11, (12, 16), 25.0)
        frames = list(source)
    for index, frame in enumerate(frames):
        assert frame.index == index
        np.testing.assert_array_equal(frame.image, gradient_frame(index, (12, 16)))


def test_natural_key_orders_numbers_by_value() -> None:
    names = ["b1", "a10", "a2", "10", "9", "a2b10", "a2b9", "A3", "²"]
    expected = ["9", "10", "a2", "a2b9", "a2b10", "A3", "a10", "b1", "²"]
    assert sorted(names, key=natural_key) == expected


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(SourceError, match=r"holds no images; expected files in .*\.png"):
        open_source(str(tmp_path))


def test_absent_camera_lists_those_that_exist() -> None:
    cameras = list_cameras()
    expected = ", ".join(cameras) if cameras else "this machine has none"
    with pytest.raises(SourceError, match=f"no camera 987: .*{expected}"):
        open_source("987")


def test_camera_counts_frames_and_reports_when_they_stop(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=3)
    options, events = SourceOptions(reconnect=0), []
    with StreamingSource(
        lambda: CameraReader(cv2.VideoCapture(str(path)), "camera 0"),
        "camera 0",
        options,
        on_event=events.append,
    ) as source:
        assert (source.live, source.frame_count) == (True, None)
        frames = iter(source)
        seen = [next(frames) for _ in range(3)]
        with pytest.raises(SourceError, match="camera 0 is lost: camera 0 delivers no frame"):
            next(frames)
    assert [frame.index for frame in seen] == [0, 1, 2]
    assert [frame.timestamp for frame in seen] == sorted(frame.timestamp for frame in seen)
    assert abs(seen[2].image - gradient_frame(2, (48, 64)).astype(int)).mean() < 4
    assert [(event.kind, event.frame) for event in events] == [("lost", 3)]


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(SourceError, match="scheme 'gopher:' is not known"):
        open_source("gopher://host/video")

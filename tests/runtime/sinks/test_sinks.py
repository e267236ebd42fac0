from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamseg.errors import SinkError
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.sinks import (
    AreaSink,
    ConfidenceSink,
    JsonLines,
    LabelSink,
    SegmentedFrame,
    SheetSink,
    Sink,
    VideoSink,
)
from streamseg.runtime.sinks.labels import CITYSCAPES, cityscapes_ids
from streamseg.runtime.video.resize import Size
from tests.runtime.clips import gradient_frame, read_clip, small_disk


def segmented(index: int, size: Size = (48, 64), fps: float = 10) -> SegmentedFrame:
    labels = np.full(size, index % 256, np.uint8)
    return SegmentedFrame(gradient_frame(index, size), labels, index, index / fps)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def noisy(index: int, size: Size) -> SegmentedFrame:
    """A frame that does not compress."""
    picture = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    return SegmentedFrame(picture, picture[..., 0].copy(), index, index / 10)


def test_video_is_h264_for_browsers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "o.mp4"
    sink = VideoSink(path, 10)
    for index in range(12):
        sink.write(segmented(index))
    assert not path.exists()
    assert sink.finish() == f"{path}: 12 frames, H.264 48x64"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        assert container.duration == pytest.approx(1.2e6, rel=0.01)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    frames = read_clip(path)
    assert len(frames) == 12
    assert abs(frames[7] - gradient_frame(7, (48, 64)).astype(int)).mean() < 6
    assert names(path.parent) == ["o.mp4"]


def test_pictures_too_small_for_a_video_leave_no_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "o.mp4", 10)
    with pytest.raises(SinkError, match="frames are 1x64; write to a folder"):
        sink.write(noisy(0, (1, 64)))
    sink.finish()
    assert names(tmp_path) == []


def test_video_keeps_the_times_of_its_source(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "o.mp4", 10)
    times = [5.0, 5.1, 5.1, 6.0, 7.5]
    for index, seconds in enumerate(times):
        frame = segmented(index)
        sink.write(SegmentedFrame(frame.picture, frame.labels, index, seconds))
    sink.finish()
    with av.open(str(tmp_path / "o.mp4")) as container:
        seen = [frame.time for frame in container.decode(video=0)]
    assert seen == pytest.approx([0, 0.1, 0.1, 1.0, 2.5], abs=1e-3)


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 64, 128)])
def test_video_is_tagged_and_converted_as_bt709(
    tmp_path: Path, color: tuple[int, int, int]
) -> None:
    sink = VideoSink(tmp_path / "o.mp4", 10)
    picture = np.empty((48, 64, 3), np.uint8)
    picture[...] = color
    sink.write(SegmentedFrame(picture, picture[..., 0], 0, 0.0))
    sink.finish()
    with av.open(str(tmp_path / "o.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (1, 1)
    y, u, v = (int(np.frombuffer(plane, np.uint8)[0]) for plane in frame.planes)
    red, green, blue = (value / 255 for value in color)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = (16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556)
    expected += (128 + 224 * (red - luma) / 1.5748,)
    assert (y, u, v) == pytest.approx(expected, abs=3)


def test_odd_sizes_are_cut_to_even_and_reported(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "o.mp4", 10)
    for index in range(3):
        sink.write(segmented(index, (49, 65)))
    assert sink.finish().endswith("3 frames, H.264 48x64, cut from 49x65")
    assert read_clip(tmp_path / "o.mp4")[0].shape == (48, 64, 3)


def test_another_size_goes_into_the_next_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "o.mp4", 10)
    sizes = [(48, 64), (48, 64), (32, 32), (48, 64)]
    for index, size in enumerate(sizes):
        sink.write(segmented(index, size))
    assert sink.finish().split("; ") == [
        f"{tmp_path / name}: {frames}, H.264 {size}"
        for name, frames, size in (
            ("o.mp4", "2 frames", "48x64"),
            ("o-2.mp4", "1 frame", "32x32"),
            ("o-3.mp4", "1 frame", "48x64"),
        )
    ]
    assert names(tmp_path) == ["o-2.mp4", "o-3.mp4", "o.mp4"]
    shapes = [read_clip(tmp_path / name)[0].shape for name in ("o.mp4", "o-2.mp4")]
    assert shapes == [(48, 64, 3), (32, 32, 3)]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_video_can_be_played_while_it_is_recorded(tmp_path: Path, suffix: str) -> None:
    sink = VideoSink(tmp_path / f"o.{suffix}", 10)
    for index in range(12):
        sink.write(segmented(index))
        # The muxer holds one frame back, whose length it learns from the next.
        if index:
            assert len(read_clip(tmp_path / f"o.part.{suffix}")) == index
    sink.finish()
    assert len(read_clip(tmp_path / f"o.{suffix}")) == 12
    assert names(tmp_path) == [f"o.{suffix}"]


def test_discarded_video_keeps_what_can_be_played_and_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    path.write_bytes(b"older")
    sink = VideoSink(path, 10)
    for index in range(3):
        sink.write(segmented(index))
    sink.discard()
    assert sink.finish() == ""
    assert names(tmp_path) == ["o.mp4", "o.part.mp4"]
    assert path.read_bytes() == b"older"
    assert len(read_clip(tmp_path / "o.part.mp4")) == 3
    VideoSink(path, 10).discard()
    assert names(tmp_path) == ["o.mp4", "o.part.mp4"]


def test_recordings_of_killed_runs_are_never_touched(tmp_path: Path) -> None:
    left = [tmp_path / "o.part.mp4", tmp_path / "o.part-2.mp4"]
    for path in left:
        path.write_bytes(b"killed")
    sink = VideoSink(tmp_path / "o.mp4", 10)
    sink.write(segmented(0))
    assert (tmp_path / "o.part-3.mp4").exists()
    sink.finish()
    assert names(tmp_path) == ["o.mp4", "o.part-2.mp4", "o.part.mp4"]
    assert all(path.read_bytes() == b"killed" for path in left)


def test_video_stays_in_fragments_where_no_second_copy_fits(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 600) as disk:
        sink = VideoSink(disk / "o.mp4", 10)
        index = 0
        while index < 2 or (disk / "o.part.mp4").stat().st_size < 350_000:
            sink.write(noisy(index, (96, 128)))
            index += 1
        assert sink.finish().endswith(f"{index} frames, H.264 96x128, in fragments")
        assert names(disk) == ["o.mp4"]
        assert len(read_clip(disk / "o.mp4")) == index


def test_video_without_frames_is_not_written(tmp_path: Path) -> None:
    assert "no frames" in VideoSink(tmp_path / "o.mp4", 10).finish()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: VideoSink(folder / "o.avi", 10), r"expected a name in \.mp4"),
        (lambda folder: SheetSink(folder / "o.jpg"), r"expected a name in \.png"),
        (lambda folder: VideoSink(folder / "taken.mp4", 10), "it is a folder"),
        (lambda folder: VideoSink(folder / "file" / "o.mp4", 10), "cannot make the folder"),
        (lambda folder: LabelSink(folder / "file"), "cannot write into"),
        (lambda _: VideoSink("/proc/o.mp4", 10), "cannot write /proc/o.mp4"),
        (lambda _: SheetSink("/proc/o.png"), "cannot write /proc/o.png"),
        (lambda _: LabelSink("/proc/self"), "cannot write into /proc/self"),
    ],
)
def test_unwritable_outputs_are_reported_at_once(tmp_path: Path, make: object, match: str) -> None:
    (tmp_path / "taken.mp4").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=match):
        make(tmp_path)  # type: ignore[operator]
    assert names(tmp_path) == ["file", "taken.mp4"]


@pytest.mark.parametrize("kind", ["video", "labels", "sheet"])
def test_full_disk_is_one_line_and_leaves_only_usable_files(tmp_path: Path, kind: str) -> None:
    with small_disk(tmp_path / "disk", 400) as disk:
        sink: Sink
        if kind == "video":
            sink = VideoSink(disk / "o.mp4", 10)
        elif kind == "labels":
            sink = LabelSink(disk / "labels")
        else:
            sink = SheetSink(disk / "o.png")
        with pytest.raises(SinkError, match=r"No space left.*MiB free there") as caught:
            write_until_full(sink)
        assert "\n" not in str(caught.value)
        assert str(disk) in str(caught.value)
        sink.discard()
        left = [path for path in disk.rglob("*") if path.is_file()]
        if kind == "video":
            assert [path.name for path in left] == ["o.part.mp4"]
            assert len(read_clip(left[0])) >= 2
            assert f"kept {left[0]}: up to " in str(caught.value)
        else:
            assert all(cv2.imread(str(p), cv2.IMREAD_UNCHANGED).shape == (192, 256) for p in left)
            assert bool(left) == (kind == "labels")


def write_until_full(sink: Sink) -> None:
    for index in range(60):
        sink.write(noisy(index, (192, 256)))
    sink.finish()


def test_labels_are_grey_png_with_padded_names(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    sink = LabelSink(folder)
    for index in (0, 7, 255):
        sink.write(segmented(index))
    assert sink.finish() == f"{folder}: 3 label maps"
    assert names(folder) == ["000000.png", "000007.png", "000255.png", "mine.txt"]
    labels = cv2.imread(str(folder / "000007.png"), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.full((48, 64), 7))


def test_unused_label_folder_is_removed_only_if_made_here(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("old", "new"):
        LabelSink(tmp_path / name).discard()
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("frames", [1, 5, 6, 100, 1000])
def test_sheet_spreads_its_pictures_over_the_stream(tmp_path: Path, frames: int) -> None:
    sink = SheetSink(tmp_path / "s.png", count=6, columns=3, tile_width=20)
    for index in range(frames):
        frame = segmented(index, (10, 20))
        frame.picture[..., 2] = index * 255 // 1000
        sink.write(frame)
    number = min(6, frames)
    assert f"{number} of {frames} frame" in sink.finish()
    sheet = cv2.imread(str(tmp_path / "s.png"))
    rows, columns = -(-number // 3), min(3, number)
    assert sheet.shape == (rows * 14 + 4, columns * 24 + 4, 3)
    tiles = [sheet[4 + i // 3 * 14 + 5, 4 + i % 3 * 24 + 10, 0] for i in range(number)]
    expected = np.linspace(0, frames - 1, number) * 255 / 1000
    np.testing.assert_allclose(tiles, expected, atol=2 + frames * 0.03)


def test_labels_can_be_written_as_cityscapes_label_ids(tmp_path: Path) -> None:
    classes = [ClassInfo(i, name, (0, 0, 0)) for i, name in enumerate(CITYSCAPES)]
    sink = LabelSink(tmp_path / "l", cityscapes_ids(classes))
    labels = np.array([[0, 10, 13, 18, 255]], np.uint8)
    sink.write(SegmentedFrame(np.zeros((1, 5, 3), np.uint8), labels, 4, 0.0))
    written = cv2.imread(str(tmp_path / "l" / "000004.png"), cv2.IMREAD_UNCHANGED)
    assert written.tolist() == [[7, 23, 26, 33, 0]]
    assert sink.finish().endswith("1 label map (Cityscapes label ids)")
    foreign = [classes[0], ClassInfo(1, "sofa", (0, 0, 0))]
    with pytest.raises(SinkError, match=r"does not have: sofa\. Bundle: road, sofa\. Cityscapes: "):
        cityscapes_ids(foreign)
    forced = cityscapes_ids(foreign, by_position=True)
    assert forced.values[:3].tolist() == [7, 8, 0]
    assert forced.note.endswith("class ids taken as train ids")
    other = [ClassInfo(0, "Traffic_Light", (0, 0, 0)), ClassInfo(1, "pedestrian", (0, 0, 0))]
    assert cityscapes_ids(other).values[:3].tolist() == [19, 24, 0]
    nameless = [ClassInfo(i, f"class {i}", (0, 0, 0)) for i in range(2)]
    found = cityscapes_ids(nameless)
    assert found.values[:2].tolist() == [7, 8]
    assert found.note.endswith("the bundle has no class names")


def test_confidences_are_grey_png(tmp_path: Path) -> None:
    sink = ConfidenceSink(tmp_path / "c")
    picture = np.zeros((2, 3, 3), np.uint8)
    confidence = np.arange(6, dtype=np.uint8).reshape(2, 3)
    sink.write(SegmentedFrame(picture, picture[..., 0], 7, 0.0, confidence))
    assert sink.finish() == f"{tmp_path / 'c'}: 1 confidence map"
    written = cv2.imread(str(tmp_path / "c" / "000007.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, confidence)


def test_areas_are_shares_of_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "new" / "areas.jsonl"
    classes = [ClassInfo(0, "road", (0, 0, 0)), ClassInfo(1, "sky", (9, 9, 9))]
    for run in range(2):
        sink = AreaSink(path, classes)
        labels = np.array([[0, 0, 0, 255], [1, 1, 200, 255]], np.uint8)
        sink.write(SegmentedFrame(np.zeros((2, 4, 3), np.uint8), labels, 7 + run, 0.28))
        assert len(path.read_text().splitlines()) == run + 1
        assert sink.finish() == f"{path}: 1 line"
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {"frame": 7, "time": 0.28, "areas": {"road": 0.375, "sky": 0.25, "none": 0.375}}
    assert second["frame"] == 8


def test_lines_end_what_a_killed_process_left_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a": 1}\n{"b": ')
    lines = JsonLines(path)
    lines.write({"c": 2})
    lines.close()
    assert path.read_text().splitlines() == ['{"a": 1}', '{"b": ', '{"c": 2}']
    unused = JsonLines(tmp_path / "unused")
    unused.close()
    assert names(tmp_path) == ["lines"]


def test_lines_report_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        lines = JsonLines(disk / "lines")
        lines.write({"text": "first"})
        with pytest.raises(SinkError, match="No space left"):
            lines.write({"text": "x" * 100_000})
        assert (disk / "lines").read_text().splitlines()[0] == '{"text": "first"}'
        lines.close()


def test_frames_that_change_size_all_the_time_end_the_video(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "o.mp4", 25)

    def record() -> None:
        for index in range(100):
            picture = np.zeros((48, 64 + 2 * (index % 2), 3), np.uint8)
            sink.write(SegmentedFrame(picture, picture[..., 0], index, index / 25))

    with pytest.raises(SinkError, match=r"changed their size 8 times within 7 frames.*--labels"):
        record()
    sink.discard()
    assert len(list(tmp_path.iterdir())) <= 9


def test_rare_changes_of_size_are_files_of_their_own(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "o.mp4", 25)
    for index in range(12 * 40):
        picture = np.zeros((48, 64 + 2 * (index // 40 % 2), 3), np.uint8)
        sink.write(SegmentedFrame(picture, picture[..., 0], index, index / 25))
    assert len(sink.finish().split("; ")) == 12

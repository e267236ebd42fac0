from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamseg.errors import BackendError, SinkError, SourceError, StateMismatch, StreamsegError
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.loop.decoding import QUEUE_LENGTH
from streamseg.runtime.loop.member import MemberOptions
from streamseg.runtime.loop.pipeline import run_stream
from streamseg.runtime.loop.times import STAGES
from streamseg.runtime.session.snapshots import Position
from streamseg.runtime.sinks import LabelSink, SegmentedFrame, VideoSink
from streamseg.runtime.sources import Frame, Source, open_source
from streamseg.runtime.video.overlay import Overlay
from streamseg.runtime.video.resize import Image
from streamseg.signals import stop_on_signals
from tests.runtime.clips import join_clips, read_clip, small_disk, write_clip, write_folder

CLASSES = (ClassInfo(0, "dark", (0, 0, 0)), ClassInfo(1, "light", (255, 255, 255)))


@dataclass
class Result:
    labels: Image
    timings: dict[str, float]


class CountingStream:
    """A session whose labels are the number of the step, in one buffer as the contract allows."""

    depth, due, unsaved, patience = 1, False, None, 0.0

    def __init__(
        self, *, fail_at: int = -1, seconds: float = 0.0, resumed: Position | None = None
    ) -> None:
        self.steps, self.served, self.ended = 0, 0, False
        self.notes: list[tuple[str, str]] = []
        self.resumed = resumed
        self.run_job: Callable[[Callable[[], None]], None] = lambda job: job()
        self._fail_at, self._seconds = fail_at, seconds
        self._labels = np.zeros((0, 0), np.uint8)

    def __call__(self, run_job: Callable[[Callable[[], None]], None]) -> Any:
        """Be made."""
        self.run_job = run_job
        return self

    def prepare(self, frame: Frame) -> Frame:
        return frame

    def begin(self, frame: Frame) -> None:
        time.sleep(self._seconds)
        if self.steps == self._fail_at:
            raise BackendError(f"graph failed at {self.steps}")
        if self._labels.shape != frame.size:
            self._labels = np.empty(frame.size, np.uint8)
        self._labels[...] = self.steps
        self.steps += 1

    def finish(self) -> Any:
        return Result(self._labels, {"preprocess": 0.001, "step": 0.002})

    def confidence(self) -> Image:
        return self._labels + 100

    def serve(self) -> None:
        self.served += 1

    def end(self) -> None:
        self.ended = True

    def note(self, kind: str, reason: str) -> None:
        self.notes.append((kind, reason))


@dataclass
class MemorySink:
    """Remembers what it was given."""

    needs_picture = True
    needs_confidence = False
    path: Path = Path("memory")
    fail_at: int = -1
    seconds: float = 0.0
    labels: list[int] = field(default_factory=list)
    end: str = ""

    def write(self, frame: SegmentedFrame) -> None:
        time.sleep(self.seconds)
        if frame.index == self.fail_at:
            raise SinkError(f"memory failed at {frame.index}")
        assert (frame.labels == frame.labels[0, 0]).all()
        self.labels.append(int(frame.labels[0, 0]))

    def finish(self) -> str:
        self.end = "finished"
        return f"memory: {len(self.labels)}"

    def discard(self) -> None:
        self.end = self.end or "discarded"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", frames=12)


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("streamseg-")]


@pytest.mark.parametrize(("step", "write"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.01)])
def test_every_frame_arrives_in_order_however_fast_each_side_is(
    clip: Path, step: float, write: float
) -> None:
    sink, counts = MemorySink(seconds=write), []
    with open_source(str(clip)) as source:
        stream = CountingStream(seconds=step)
        report = run_stream(stream, source, Overlay(CLASSES), [sink], on_frame=counts.append)
    assert sink.labels == list(range(12))
    assert counts == list(range(1, 13))
    assert (report.frames, report.stopped, report.outputs) == (12, False, ["memory: 12"])
    assert tuple(report.times) == STAGES
    assert report.times["step"].median == report.times["step"].p95 == 0.002
    assert all(0 < t.median <= t.p95 for t in report.times.values())
    assert no_threads_left()


def test_encode_runs_beside_the_step(clip: Path) -> None:
    with open_source(str(clip)) as source:
        stream, sink = CountingStream(seconds=0.05), MemorySink(seconds=0.05)
        report = run_stream(stream, source, Overlay(CLASSES), [sink])
    assert report.seconds < 12 * 0.1 * 0.85


def test_limit_ends_the_run(clip: Path) -> None:
    sink = MemorySink()
    with open_source(str(clip)) as source:
        report = run_stream(
            CountingStream(), source, Overlay(CLASSES), [sink], options=MemberOptions(limit=5)
        )
    assert (report.frames, report.stopped, sink.labels) == (5, False, [0, 1, 2, 3, 4])


def test_damage_after_the_limit_is_ignored(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", [(48, 64)] * 4)
    (folder / "4.png").write_bytes(b"")
    with open_source(str(folder)) as source:
        report = run_stream(
            CountingStream(),
            source,
            Overlay(CLASSES),
            [MemorySink()],
            options=MemberOptions(limit=3),
        )
    assert report.frames == 3


def test_stop_request_completes_the_outputs(clip: Path, tmp_path: Path) -> None:
    stop, sink = threading.Event(), VideoSink(tmp_path / "o.mp4", 10)

    def count(frames: int) -> None:
        if frames == 3:
            stop.set()

    with open_source(str(clip)) as source:
        stream = CountingStream()
        report = run_stream(stream, source, Overlay(CLASSES), [sink], stop=stop, on_frame=count)
    assert (report.frames, report.stopped) == (3, True)
    assert len(read_clip(tmp_path / "o.mp4")) == 3
    assert no_threads_left()


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_change_of_geometry_continues_and_nothing_is_lost(tmp_path: Path, kind: str) -> None:
    sizes = [(48, 64), (32, 80), (48, 64)]
    if kind == "video":
        path, number = join_clips(tmp_path / "joined.ts", sizes), 5
    else:
        path, number = write_folder(tmp_path / "images", sizes), 1
    sinks = [VideoSink(tmp_path / "o.mp4", 10), LabelSink(tmp_path / "l"), MemorySink()]
    with open_source(str(path)) as source:
        report = run_stream(CountingStream(), source, Overlay(CLASSES), sinks)
    assert report.frames == 3 * number
    files = [tmp_path / name for name in ("o.mp4", "o-2.mp4", "o-3.mp4")]
    clips = [read_clip(file) for file in files]
    assert [len(clip) for clip in clips] == [number] * 3
    assert [clip[0].shape[:2] for clip in clips] == sizes
    shapes = [cv2.imread(str(p), -1).shape for p in sorted((tmp_path / "l").iterdir())]
    assert shapes == [size for size in sizes for _ in range(number)]
    assert no_threads_left()


def test_interrupted_source_keeps_earlier_frames(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", [(48, 64)] * 3)
    (folder / "4.png").symlink_to(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_file", lambda _path: True)
        opened = open_source(str(folder))
    sink = MemorySink()
    with (
        opened as source,
        pytest.raises(SourceError, match=r"cannot read image.*4\.png.*\(kept: memory: 3\)"),
    ):
        run_stream(CountingStream(), source, Overlay(CLASSES), [sink])
    assert (sink.labels, sink.end) == ([0, 1, 2], "finished")


@pytest.mark.parametrize(("fail_at", "end"), [(0, "discarded"), (4, "finished")])
def test_failing_step_reaches_the_caller(clip: Path, fail_at: int, end: str) -> None:
    sink = MemorySink()
    with (
        open_source(str(clip)) as source,
        pytest.raises(BackendError, match=f"graph failed at {fail_at}"),
    ):
        run_stream(CountingStream(fail_at=fail_at), source, Overlay(CLASSES), [sink])
    assert (len(sink.labels), sink.end) == (fail_at, end)
    assert no_threads_left()


def test_failing_sink_is_discarded_and_the_others_are_completed(clip: Path) -> None:
    good, bad = MemorySink(Path("good")), MemorySink(Path("bad"), fail_at=4)
    stream = CountingStream()
    with open_source(str(clip)) as source, pytest.raises(SinkError, match="memory failed at 4"):
        run_stream(stream, source, Overlay(CLASSES), [good, bad])
    assert (good.end, bad.end) == ("finished", "discarded")
    assert stream.steps <= 4 + QUEUE_LENGTH + 2
    assert no_threads_left()


def test_errors_of_other_libraries_are_named_and_kept_as_the_cause(clip: Path) -> None:
    class Broken(CountingStream):
        def begin(self, frame: Frame) -> None:
            raise ZeroDivisionError(frame.size)

    with (
        open_source(str(clip)) as source,
        pytest.raises(StreamsegError, match=r"ZeroDivisionError: \(48, 64\)") as raised,
    ):
        run_stream(Broken(), source, Overlay(CLASSES), [MemorySink()])
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_full_disk_reaches_the_caller(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", [(480, 640)] * 40)
    with small_disk(tmp_path / "disk", 16) as disk:
        sinks = [LabelSink(tmp_path / "labels"), VideoSink(disk / "o.mp4", 10)]
        with (
            open_source(str(folder)) as source,
            pytest.raises(StreamsegError, match=r"No space left.*kept .*o\.part\.mp4"),
        ):
            run_stream(CountingStream(), source, Overlay(CLASSES), sinks)
        assert [path.name for path in disk.iterdir()] == ["o.part.mp4"]
        assert read_clip(disk / "o.part.mp4")
    assert list((tmp_path / "labels").glob("*.png"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_requests_a_stop_and_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        assert not request.event.is_set()
        os.kill(os.getpid(), number)
        assert request.event.wait(1)
        assert request.signal == number
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_sessions_get_start_and_end_and_are_served_without_frames(clip: Path) -> None:
    class Slow:
        """A source that makes its reader wait."""

        def __init__(self, source: Source) -> None:
            self._source = source

        def __getattr__(self, name: str) -> Any:
            return getattr(self._source, name)

        def __iter__(self) -> Iterator[Frame]:
            for frame in self._source:
                time.sleep(0.3 if frame.index == 2 else 0.0)
                yield frame

    stream = CountingStream()
    with open_source(str(clip)) as source:
        run_stream(stream, Slow(source), Overlay(CLASSES), [MemorySink()])
    assert stream.served >= 2
    assert stream.ended
    start = ("start", f"frames of 48x64 from {clip}")
    assert stream.notes == [start, ("end", "the source ended")]


def test_stop_request_ends_the_wait_for_a_frame(clip: Path) -> None:
    class Silent:
        """A source that gives one frame and then nothing."""

        def __init__(self, source: Source) -> None:
            self._source, self._stopped = source, threading.Event()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._source, name)

        def __iter__(self) -> Iterator[Frame]:
            yield next(iter(self._source))
            self._stopped.wait(60)

        def stop(self) -> None:
            self._stopped.set()

    stop, stream = threading.Event(), CountingStream()
    threading.Timer(0.4, stop.set).start()
    with open_source(str(clip)) as source:
        report = run_stream(stream, Silent(source), Overlay(CLASSES), [MemorySink()], stop=stop)
    assert (report.stopped, report.frames) == (True, 1)
    assert report.seconds < 5
    assert stream.notes[-1] == ("end", "stopped by a request")
    assert no_threads_left()


def test_request_before_the_first_frame_leaves_no_output(clip: Path) -> None:
    stop, sink, stream = threading.Event(), MemorySink(), CountingStream()
    stop.set()
    with open_source(str(clip)) as source:
        report = run_stream(stream, source, Overlay(CLASSES), [sink], stop=stop)
    assert (report.stopped, report.frames, sink.end) == (True, 0, "discarded")


def test_failed_step_leaves_no_valid_state(clip: Path) -> None:
    stream = CountingStream(fail_at=4)
    with open_source(str(clip)) as source, pytest.raises(BackendError):
        run_stream(stream, source, Overlay(CLASSES), [MemorySink()])
    assert not stream.ended
    assert stream.notes[-1] == ("end", "graph failed at 4")


def test_pictures_and_confidences_are_made_only_on_demand(clip: Path) -> None:
    class Undrawn(Overlay):
        def draw(self, frame: Image, labels: Image, out: Image) -> None:
            raise AssertionError((frame.shape, labels.shape, out.shape))

    @dataclass
    class Sure(MemorySink):
        needs_picture = False
        needs_confidence = True

        def write(self, frame: SegmentedFrame) -> None:
            super().write(frame)
            assert frame.confidence is not None
            assert (frame.confidence == frame.labels + 100).all()

    sink = Sure()
    with open_source(str(clip)) as source:
        report = run_stream(CountingStream(), source, Undrawn(CLASSES), [sink])
    assert report.frames == 12
    assert "overlay" not in report.times


def test_jobs_of_the_session_run_after_earlier_frames(clip: Path) -> None:
    sink, seen = MemorySink(seconds=0.01), []

    class Asking(CountingStream):
        def begin(self, frame: Frame) -> None:
            self.run_job(lambda: seen.append(list(sink.labels)))
            super().begin(frame)

    stream = Asking()
    with open_source(str(clip)) as source:
        run_stream(stream, source, Overlay(CLASSES), [sink])
    assert seen == [list(range(index)) for index in range(12)]


def test_resumed_run_skips_earlier_frames_and_rejects_another_source(clip: Path) -> None:
    sink = MemorySink()
    with open_source(str(clip)) as source:
        after = Position(6, 0.6, (48, 64))
        report = run_stream(CountingStream(resumed=after), source, Overlay(CLASSES), [sink])
    assert report.frames == 5
    after = Position(6, 0.9, (48, 64))
    with (
        open_source(str(clip)) as source,
        pytest.raises(StateMismatch, match=r"frame 6 of the source is at 0\.600 s.* 0\.900 s"),
    ):
        run_stream(CountingStream(resumed=after), source, Overlay(CLASSES), [sink])

"""The run loop: decode and encode beside the step, times, and an orderly end."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

import numpy as np

from streamseg.errors import SourceError, StreamsegError
from streamseg.runtime.overlay import Overlay
from streamseg.runtime.resize import Image
from streamseg.runtime.sinks import SegmentedFrame, Sink
from streamseg.runtime.sources import Frame, Source

STAGES = ("decode", "preprocess", "step", "overlay", "encode")
QUEUE_LENGTH = 4
TIMES_KEPT = 10_000  # a stream may run for weeks
WAIT = 0.1  # seconds between looks at the stop flag while nothing arrives
PATIENCE = 5.0  # seconds that a source blocked in a read may take to notice the end


class StepResult(Protocol):
    """What a stream's step gives (see ``streamseg.runtime.stream``)."""

    @property
    def labels(self) -> Image:
        """(height, width) uint8 at the frame's size, valid until the next step."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds of ``preprocess`` and ``step``."""


class Steppable(Protocol):
    """A stream, as far as the loop is concerned."""

    def step(self, frame: Image) -> StepResult:
        """Advance by one (height, width, 3) uint8 RGB frame."""


@dataclass(frozen=True)
class StageTime:
    """Seconds a frame, over the last frames of a run."""

    median: float
    p95: float


@dataclass(frozen=True)
class RunReport:
    """How a run went.

    Attributes:
        frames: segmented and written.
        seconds: from the first wait for a frame until everything was written.
        stopped: ended by a request, before the source did and before the limit.
        times: stage -> time, in the order of ``STAGES``.
        outputs: one sentence for each sink.
    """

    frames: int
    seconds: float
    stopped: bool
    times: Mapping[str, StageTime]
    outputs: Sequence[str]

    @property
    def fps(self) -> float:
        """Frames a second over the whole run."""
        return self.frames / self.seconds if self.seconds else 0.0


class StageTimes:
    """Collects seconds by stage; each stage is recorded by one thread only."""

    def __init__(self) -> None:
        self._seconds = {stage: deque[float](maxlen=TIMES_KEPT) for stage in STAGES}

    def add(self, stage: str, seconds: float) -> None:
        """Record one frame."""
        self._seconds[stage].append(seconds)

    def summary(self) -> dict[str, StageTime]:
        """Median and 95th percentile of every stage that ran."""
        return {
            stage: StageTime(float(np.median(values)), float(np.percentile(values, 95)))
            for stage, values in self._seconds.items()
            if values
        }


@dataclass
class _Slot:
    """A frame on its way from the step to the sinks, in buffers that are used again."""

    labels: Image
    picture: Image
    frame: Frame | None = None

    def segmented(self) -> SegmentedFrame:
        assert self.frame is not None
        return SegmentedFrame(self.picture, self.labels, self.frame.index, self.frame.timestamp)


class _Decoder(threading.Thread):
    """Reads the source into a bounded queue; None marks the end, ``error`` says if a bad one."""

    def __init__(self, source: Source, times: StageTimes) -> None:
        super().__init__(name="streamseg-decode", daemon=True)
        self.frames: queue.Queue[Frame | None] = queue.Queue(QUEUE_LENGTH)
        self.error: BaseException | None = None
        self._source, self._times = source, times
        self._halt = threading.Event()

    def run(self) -> None:
        try:
            frames = iter(self._source)
            while not self._halt.is_set():
                begin = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    break
                self._times.add("decode", time.perf_counter() - begin)
                self._offer(frame)
        except BaseException as error:
            self.error = error
        self._offer(None)

    def _offer(self, frame: Frame | None) -> None:
        while not self._halt.is_set():
            try:
                self.frames.put(frame, timeout=WAIT)
            except queue.Full:
                continue
            return

    def halt(self) -> None:
        """Stop reading; a read under way gets ``PATIENCE`` seconds to return."""
        self._halt.set()
        self.join(PATIENCE)


class _Writer(threading.Thread):
    """Draws the overlay and feeds the sinks.

    After a failure it goes on taking slots without using them, so that nobody waits for it.
    """

    def __init__(self, overlay: Overlay, sinks: Sequence[Sink], times: StageTimes) -> None:
        super().__init__(name="streamseg-encode", daemon=True)
        self.error: BaseException | None = None
        self.failed: Sink | None = None
        self.written = 0
        self.free: queue.Queue[_Slot] = queue.Queue()
        self._work: queue.Queue[_Slot | None] = queue.Queue()
        self._overlay, self._sinks, self._times = overlay, sinks, times

    def submit(self, slot: _Slot) -> None:
        """Hand over a filled slot; it comes back through ``free``."""
        self._work.put(slot)

    def run(self) -> None:
        while (slot := self._work.get()) is not None:
            if self.error is None:
                try:
                    self._write(slot)
                except BaseException as error:
                    self.error = error
            slot.frame = None
            self.free.put(slot)

    def _write(self, slot: _Slot) -> None:
        assert slot.frame is not None
        begin = time.perf_counter()
        self._overlay.draw(slot.frame.image, slot.labels, slot.picture)
        drawn = time.perf_counter()
        segmented = slot.segmented()
        for sink in self._sinks:
            self.failed = sink
            sink.write(segmented)
        self.failed = None
        self._times.add("overlay", drawn - begin)
        self._times.add("encode", time.perf_counter() - drawn)
        self.written += 1

    def halt(self) -> None:
        """Write everything submitted, then stop."""
        self._work.put(None)
        self.join()


@dataclass
class StopRequest:
    """Set from a signal handler or another thread to end a run after the current frame."""

    event: threading.Event = field(default_factory=threading.Event)
    signal: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a stop request; a second one acts as usual."""
    request = StopRequest()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: FrameType | None) -> None:
        restore()
        request.signal = number
        request.event.set()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()


def run_stream(
    stream: Steppable,
    source: Source,
    overlay: Overlay,
    sinks: Sequence[Sink],
    *,
    limit: int | None = None,
    stop: threading.Event | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> RunReport:
    """Segment a source into sinks; ends the sinks, not the source or the stream.

    Args:
        stream: anything with a ``step``.
        source: of the frames; iterated in a thread of its own.
        overlay: draws the pictures that sinks get.
        sinks: outputs, written in a thread of their own.
        limit: number of frames after which to end.
        stop: set it to end after the current frame; the outputs are completed.
        on_frame: called in this thread with the number of frames stepped so far.

    Raises:
        SourceError: the source broke off, or its frames change size.
        SinkError: an output failed; that one is removed.
        StreamsegError: whatever the step raises. In every case the outputs that hold frames are
            completed, and the message says so.
    """
    times = StageTimes()
    decoder, writer = _Decoder(source, times), _Writer(overlay, sinks, times)
    request = stop or threading.Event()
    begin = time.perf_counter()
    decoder.start()
    writer.start()
    error: BaseException | None = None
    stopped = False
    try:
        stopped = _loop(stream, decoder, writer, times, limit, request, on_frame)
    except BaseException as failure:
        error = failure
    decoder.halt()
    writer.halt()
    error = writer.error or error
    outputs, error = _end_sinks(sinks, writer, error)
    if error is not None:
        raise _with_kept(error, outputs)
    seconds = time.perf_counter() - begin
    return RunReport(writer.written, seconds, stopped, times.summary(), outputs)


def _loop(
    stream: Steppable,
    decoder: _Decoder,
    writer: _Writer,
    times: StageTimes,
    limit: int | None,
    stop: threading.Event,
    on_frame: Callable[[int], None] | None,
) -> bool:
    """Step until the source, the limit or a request ends it; True for a request."""
    count = 0
    first: Frame | None = None
    while (limit is None or count < limit) and writer.error is None:
        frame = _next_frame(decoder, stop)
        if stop.is_set():
            return True
        if frame is None:
            if decoder.error is not None:
                raise decoder.error
            return False
        if first is None:
            first = frame
            for _ in range(QUEUE_LENGTH):
                labels = np.empty(frame.size, np.uint8)
                writer.free.put(_Slot(labels, np.empty_like(frame.image)))
        elif frame.size != first.size:
            raise SourceError(
                f"frame {frame.index} is {frame.size[0]}x{frame.size[1]}, the frames before it are "
                f"{first.size[0]}x{first.size[1]}: an output holds one size; "
                "split the source there"
            )
        result = stream.step(frame.image)
        for stage in ("preprocess", "step"):
            times.add(stage, result.timings[stage])
        slot = writer.free.get()
        np.copyto(slot.labels, result.labels)
        slot.frame = frame
        writer.submit(slot)
        count += 1
        if on_frame is not None:
            on_frame(count)
    return False


def _next_frame(decoder: _Decoder, stop: threading.Event) -> Frame | None:
    while not stop.is_set():
        try:
            return decoder.frames.get(timeout=WAIT)
        except queue.Empty:
            continue
    return None


def _end_sinks(
    sinks: Sequence[Sink], writer: _Writer, error: BaseException | None
) -> tuple[list[str], BaseException | None]:
    """Complete the sinks that hold frames; the first failure of all is the one to report."""
    outputs = []
    for sink in sinks:
        if writer.written == 0 or sink is writer.failed:
            sink.discard()
            continue
        try:
            outputs.append(sink.finish())
        except StreamsegError as failure:
            error = error or failure
    return outputs, error


def _with_kept(error: BaseException, outputs: Sequence[str]) -> BaseException:
    if not isinstance(error, StreamsegError) or not outputs:
        return error
    kept = type(error)(f"{error} (kept: {'; '.join(outputs)})")
    kept.__cause__ = error
    return kept

"""The run loop: decode and encode beside the step, times, and an orderly end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamseg.errors import SourceError, StreamsegError
from streamseg.runtime.decoding import QUEUE_LENGTH, Decoder, WhenBehind
from streamseg.runtime.events import EventHandler
from streamseg.runtime.latency import LatencyWatch
from streamseg.runtime.overlay import Overlay
from streamseg.runtime.resize import Image
from streamseg.runtime.sinks import Sink
from streamseg.runtime.sources import Frame, Source
from streamseg.runtime.times import StageTime, StageTimes
from streamseg.runtime.writing import Slot, Writer


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
class RunReport:
    """How a run went.

    Attributes:
        frames: segmented and written.
        seconds: from the first wait for a frame until everything was written.
        stopped: ended by a request, before the source did and before the limit.
        times: stage -> time, in the order of ``STAGES``.
        outputs: one sentence for each sink.
        dropped: frames that a newer one replaced before their turn.
        passed_over: frames left out to keep to the rate asked for.
        corrupt: damaged packets and frames that the source left out.
        reconnects: how often the source was lost and came back.
        late: label maps older than the limit.
    """

    frames: int
    seconds: float
    stopped: bool
    times: Mapping[str, StageTime]
    outputs: Sequence[str]
    dropped: int = 0
    passed_over: int = 0
    corrupt: int = 0
    reconnects: int = 0
    late: int = 0

    @property
    def fps(self) -> float:
        """Frames a second over the whole run."""
        return self.frames / self.seconds if self.seconds else 0.0


def run_stream(
    stream: Steppable,
    source: Source,
    overlay: Overlay,
    sinks: Sequence[Sink],
    *,
    limit: int | None = None,
    stop: threading.Event | None = None,
    on_frame: Callable[[int], None] | None = None,
    when_behind: WhenBehind | None = None,
    max_latency: float | None = None,
    on_event: EventHandler | None = None,
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
        when_behind: drop frames or let the source wait when it is faster than the step; by
            default live sources drop.
        max_latency: seconds from a frame's arrival to its labels; what takes longer is counted.
        on_event: gets events ``late``.

    Raises:
        SourceError: the source broke off, or its frames change size.
        SinkError: an output failed; that one is removed.
        StreamsegError: whatever the step raises. In every case the outputs that hold frames are
            completed, and the message says so.
    """
    times = StageTimes()
    decoder = Decoder(source, times, when_behind=when_behind)
    writer = Writer(overlay, sinks, times)
    watch = LatencyWatch(max_latency, source.name, on_event)
    request = stop or threading.Event()
    begin = time.perf_counter()
    decoder.start()
    writer.start()
    error: BaseException | None = None
    stopped = False
    try:
        stopped = _loop(stream, decoder, writer, times, watch, limit, request, on_frame)
    except BaseException as failure:
        error = failure
    decoder.halt()
    writer.halt()
    error = writer.error or error
    outputs, error = _end_sinks(sinks, writer, error)
    if error is not None:
        raise _with_kept(error, outputs)
    seconds = time.perf_counter() - begin
    return RunReport(
        writer.written,
        seconds,
        stopped,
        times.summary(),
        outputs,
        dropped=decoder.dropped,
        passed_over=source.passed_over,
        corrupt=source.corrupt,
        reconnects=source.reconnects,
        late=watch.late,
    )


def _loop(
    stream: Steppable,
    decoder: Decoder,
    writer: Writer,
    times: StageTimes,
    watch: LatencyWatch,
    limit: int | None,
    stop: threading.Event,
    on_frame: Callable[[int], None] | None,
) -> bool:
    """Step until the source, the limit or a request ends it; True for a request."""
    count = 0
    first: Frame | None = None
    while (limit is None or count < limit) and writer.error is None:
        frame = decoder.wait(stop)
        if stop.is_set():
            return True
        if frame is None:
            return False
        if first is None:
            first = frame
            for _ in range(QUEUE_LENGTH):
                labels = np.empty(frame.size, np.uint8)
                writer.free.put(Slot(labels, np.empty_like(frame.image)))
        elif frame.size != first.size:
            raise SourceError(
                f"frame {frame.index} is {frame.size[0]}x{frame.size[1]}, the frames before it are "
                f"{first.size[0]}x{first.size[1]}: an output holds one size; "
                "split the source there"
            )
        result = stream.step(frame.image)
        watch.check(frame)
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


def _end_sinks(
    sinks: Sequence[Sink], writer: Writer, error: BaseException | None
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

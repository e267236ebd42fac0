"""The run loop: decode and encode beside the step, times, and an orderly end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamseg.errors import SourceError, StateMismatch, StreamsegError
from streamseg.runtime.loop.decoding import Decoder, WhenBehind
from streamseg.runtime.loop.latency import LatencyWatch
from streamseg.runtime.loop.times import StageTime, StageTimes
from streamseg.runtime.loop.writing import Writer
from streamseg.runtime.session.events import EventHandler, EventKind
from streamseg.runtime.session.snapshots import Position
from streamseg.runtime.sinks import Sink
from streamseg.runtime.sources import Frame, Source
from streamseg.runtime.video.accuracy import AccuracyMeter
from streamseg.runtime.video.overlay import Overlay
from streamseg.runtime.video.resize import Image

SAME_TIME = 1e-3  # seconds


class Result(Protocol):
    """What a step gives (see ``streamseg.runtime.stream.StepResult``)."""

    @property
    def labels(self) -> Image:
        """(height, width) uint8 at the frame's size, valid until the next step."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds of ``preprocess`` and ``step``."""


class Steppable(Protocol):
    """A session, as far as the loop is concerned (see ``Session``)."""

    beside: Callable[[Callable[[], None]], None]

    def process(self, frame: Frame) -> Result:
        """Advance by one frame."""

    def confidence(self) -> Image:
        """(height, width) uint8 of the last result."""

    def serve(self) -> None:
        """Do what other threads asked for."""

    def end(self) -> None:
        """Do what is left to do after the last frame."""

    def note(self, kind: EventKind, reason: str) -> object:
        """Report something that happened to the stream."""


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
        accuracy: against the truth, where the source knows it and the classes are the same.
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
    accuracy: AccuracyMeter | None = None

    @property
    def fps(self) -> float:
        """Frames a second over the whole run."""
        return self.frames / self.seconds if self.seconds else 0.0


def run_stream(
    session: Steppable,
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
    after: Position | None = None,
) -> RunReport:
    """Segment a source into sinks; ends the sinks, not the source or the session.

    Snapshots are written in the sinks' thread: whatever one covers is in the outputs before it.

    Args:
        session: of the stream.
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
        after: position of the snapshot that the session goes on from. The frames of a source that
            can be read again are passed over up to there; a live one just goes on.

    Raises:
        SourceError: the source broke off.
        StateMismatch: the source has another frame at the position ``after``.
        SinkError: an output failed.
        StreamsegError: whatever the step raises. In every case the outputs that hold frames are
            completed, and the message says so.
    """
    times = StageTimes()
    decoder = Decoder(source, times, when_behind=when_behind)
    writer = Writer(overlay, sinks, times)
    loop = _Loop(
        session,
        decoder,
        writer,
        times,
        LatencyWatch(max_latency, source.name, on_event),
        limit,
        stop or threading.Event(),
        on_frame,
        None if source.live else after,
    )
    begin = time.perf_counter()
    decoder.start()
    writer.start()
    beside, session.beside = session.beside, writer.do
    error: BaseException | None = None
    try:
        loop.run()
    except BaseException as failure:
        error = failure
    decoder.halt()
    writer.halt()
    session.beside = beside
    error = writer.error or error
    outputs, error = end_sinks(sinks, writer, error)
    session.note("end", loop.reason if error is None else str(error))
    if error is not None:
        raise _with_kept(error, outputs)
    seconds = time.perf_counter() - begin
    return RunReport(
        writer.written,
        seconds,
        loop.stopped,
        times.summary(),
        outputs,
        dropped=decoder.dropped,
        passed_over=source.passed_over,
        corrupt=source.corrupt,
        reconnects=source.reconnects,
        late=loop.watch.late,
        accuracy=writer.accuracy,
    )


@dataclass
class _Loop:
    """Takes frames from the decoder to the writer until the source, the limit or a request ends.

    Attributes:
        stopped: a request ended it.
        reason: what ended it.
    """

    session: Steppable
    decoder: Decoder
    writer: Writer
    times: StageTimes
    watch: LatencyWatch
    limit: int | None
    stop: threading.Event
    on_frame: Callable[[int], None] | None
    after: Position | None
    stopped: bool = False
    reason: str = "the source ended"
    count: int = 0

    def run(self) -> None:
        """Step frame after frame, then let the session end if the state is sound."""
        try:
            while self.writer.error is None:
                if self.limit is not None and self.count >= self.limit:
                    self.reason = f"{self.limit} frames, as asked"
                    break
                frame = self.decoder.wait(self.stop, meanwhile=self.session.serve)
                if self.stop.is_set():
                    self.stopped, self.reason = True, "stopped by a request"
                    break
                if frame is None:
                    break
                if not self._is_past(frame):
                    self._step(frame)
        except SourceError:
            self.session.end()
            raise
        self.session.end()

    def _is_past(self, frame: Frame) -> bool:
        """Whether the snapshot covers this frame already."""
        after = self.after
        if after is None or frame.index > after.index:
            return False
        if frame.index == after.index and abs(frame.timestamp - after.timestamp) > SAME_TIME:
            raise StateMismatch(
                f"frame {frame.index} of the source is at {frame.timestamp:.3f} s, that of the "
                f"state at {after.timestamp:.3f} s: go on with the source and the options of the "
                "run that wrote the state"
            )
        return True

    def _step(self, frame: Frame) -> None:
        if self.count == 0:
            height, width = frame.size
            self.session.note("start", f"frames of {height}x{width}")
        result = self.session.process(frame)
        self.watch.check(frame)
        for stage in ("preprocess", "step"):
            self.times.add(stage, result.timings[stage])
        confidence = self.session.confidence() if self.writer.needs_confidence else None
        slot = self.writer.free.get()
        slot.fill(frame, result.labels, confidence)
        self.writer.submit(slot)
        self.count += 1
        if self.on_frame is not None:
            self.on_frame(self.count)


def end_sinks(
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

"""One stream of the loop: its source, state and outputs, and its figures."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from streamseg.counting import count_of
from streamseg.errors import SourceError, StateMismatch, StreamsegError, domain_error
from streamseg.runtime.loop.decoding import Decoder, do_nothing
from streamseg.runtime.loop.latency import LatencyWatch
from streamseg.runtime.loop.stream_metrics import StreamMetrics
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.loop.writing import Writer
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame
from streamseg.runtime.step_result import StepResult

SAME_TIME = 1e-3  # seconds


@dataclass(frozen=True)
class FleetFrame:
    """A frame of one stream with its labels.

    Attributes:
        stream: name of the stream.
        frame: as the source gave it.
        result: valid until the stream's next step.
        latency: seconds from the frame's arrival to its labels.
    """

    stream: str
    frame: Frame
    result: StepResult
    latency: float


@dataclass(frozen=True, kw_only=True)
class MemberOptions:
    """Where a stream begins and ends, and the hooks for its end.

    Attributes:
        limit: frames after which it leaves; None for no limit.
        first: index of the first frame to be written; those before it only warm the state.
        on_leave: called when the stream has left and its outputs are complete, whatever the
            reason; in the thread that wrote them.
        release: called in the thread of the loop once the stream steps no more.
    """

    limit: int | None = None
    first: int = 0
    on_leave: Callable[[Member], None] = lambda _member: None
    release: Callable[[], None] = do_nothing


class Member:
    """A stream of the loop; all but the figures belong to the thread of the loop.

    Args:
        name: of the stream.
        session: its state and policy.
        decoder: reads its source.
        writer: writes its outputs; None where nothing is written.
        watch: counts what is late.
        times: gets the seconds of ``preprocess`` and ``step``.
        options: where it begins and ends.
        metrics: its figures, where something counts in them already.

    Attributes:
        begun: frames whose step was begun.
        error: why the stream, or an output of it, failed.
        gone: set when the stream has left and its outputs are complete.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        decoder: Decoder,
        writer: Writer | None,
        *,
        watch: LatencyWatch,
        times: StageTimes,
        options: MemberOptions,
        metrics: StreamMetrics | None = None,
    ) -> None:
        self.name, self.session, self.decoder, self.writer = name, session, decoder, writer
        self.watch, self.times, self._options = watch, times, options
        self.metrics = metrics or StreamMetrics()
        self.begun = 0
        self.error: BaseException | None = None
        self.gone = threading.Event()
        self._under_way: deque[Frame] = deque()
        self._sound = True

    @property
    def source_name(self) -> str:
        """What to call the source, without passwords; empty until it is open."""
        return "" if self.decoder.source is None else self.decoder.source.name

    @property
    def under_way(self) -> int:
        """Steps begun and not finished."""
        return len(self._under_way)

    @property
    def can_begin(self) -> bool:
        """Whether a frame is there, and room for its result.

        A second step is begun ahead only where frames wait for their turn: of a live source a
        newer frame may come first.
        """
        if not self.decoder.waiting or self._reached_limit:
            return False
        if self._under_way:
            ahead = len(self._under_way) < self.session.depth and not self.session.due
            if not ahead or self.decoder.when_behind != "wait":
                return False
        if self.writer is None:
            return True
        if not self.writer.opened:
            assert self.decoder.source is not None
            self.writer.open(self.decoder.source)
        return self.writer.free > len(self._under_way)

    @property
    def _reached_limit(self) -> bool:
        return self._options.limit is not None and self.begun >= self._options.limit

    def why_over(self) -> tuple[str, BaseException | None] | None:
        """Why the stream has to leave, in words and perhaps an error; None while it continues."""
        if self.writer is not None and self.writer.error is not None:
            return "", self.writer.error
        if self._under_way:
            return None
        if self._options.limit is not None and self._reached_limit:
            return f"{count_of(self._options.limit, 'frame')}, as requested", None
        if not self.decoder.ended:
            return None
        error = self.decoder.error
        return "the source ended", None if error is None else domain_error(error, SourceError)

    def begin(self) -> None:
        """Begin the step of the next frame; one that the snapshot covers is skipped.

        Raises:
            Exception: whatever policy or step raise; the state is then undefined.
        """
        frame = self.decoder.take()
        if frame is None or self._is_past(frame):
            return
        if self.begun == 0:
            height, width = frame.size
            self.session.note("start", f"frames of {height}x{width} from {self.source_name}")
        if not self._under_way:
            self.session.serve()
        try:
            self.session.begin(frame)
        except BaseException:
            self._sound = False
            raise
        self.begun += 1
        self._under_way.append(frame)

    def _is_past(self, frame: Frame) -> bool:
        """Whether the snapshot covers this frame already."""
        after, source = self.session.resumed, self.decoder.source
        if after is None or frame.index > after.index or (source is not None and source.live):
            return False
        if frame.index == after.index and abs(frame.timestamp - after.timestamp) > SAME_TIME:
            raise StateMismatch(
                f"frame {frame.index} of the source is at {frame.timestamp:.3f} s, that of the "
                f"state at {after.timestamp:.3f} s: resume with the source and the options of the "
                "run that wrote the state"
            )
        return True

    def finish(self) -> FleetFrame:
        """Finish the oldest step under way and hand its result to the writer.

        Raises:
            Exception: whatever the step raises; the state is then undefined.
        """
        frame = self._under_way.popleft()
        try:
            result = self.session.finish()
        except BaseException:
            self._sound = False
            self._under_way.clear()  # they were begun on a state that is undefined
            raise
        latency = self.metrics.record(frame)
        self.watch.check(frame)
        for stage in ("preprocess", "step"):
            self.times.add(stage, result.timings[stage])
        if self.writer is not None and frame.index >= self._options.first:
            confidence = self.session.confidence() if self.writer.needs_confidence else None
            self.writer.write(frame, result.labels, confidence)
        self.refresh()
        return FleetFrame(self.name, frame, result, latency)

    def refresh(self) -> None:
        """Bring the figures that others count up to date."""
        self.metrics.dropped, self.metrics.late = self.decoder.dropped, self.watch.late
        if self.decoder.source is not None:
            self.metrics.corrupt = self.decoder.source.corrupt

    def leave(self, reason: str, error: BaseException | None) -> None:
        """End state and outputs, in the thread of the loop; returns at once.

        Args:
            reason: why, in words.
            error: why, where it failed.
        """
        if self._sound:
            try:
                self.session.end()
            except Exception as failure:
                error = error or domain_error(failure, StreamsegError)
        self._options.release()
        self.refresh()
        if self.writer is not None and self.writer.opened:
            self.writer.finish(lambda: self._end(reason, error))
        else:
            self._end(reason, error)

    def _end(self, reason: str, error: BaseException | None) -> None:
        failed = self.writer.error if self.writer is not None else None
        self.error = failed or error or self.session.unsaved
        try:
            self.session.note("end", reason if self.error is None else str(self.error))
            self._options.on_leave(self)
        finally:
            self.gone.set()

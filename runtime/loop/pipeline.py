"""One stream from its source to its sinks: the loop with a single member."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamseg.errors import StreamsegError
from streamseg.runtime.loop.decoding import Decoder, Pacing
from streamseg.runtime.loop.latency import LatencyWatch
from streamseg.runtime.loop.live_view import LiveView
from streamseg.runtime.loop.member import Member, MemberOptions
from streamseg.runtime.loop.round_robin import RoundRobin
from streamseg.runtime.loop.times import StageTime, StageTimes
from streamseg.runtime.loop.writing import Inspect, Outputs, Writer, no_inspection
from streamseg.runtime.session.events import EventHandler
from streamseg.runtime.session.session import RunJob, Session
from streamseg.runtime.sinks import Sink
from streamseg.runtime.sources import Source
from streamseg.runtime.video.overlay import Overlay


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
        passed_over: frames left out to keep to the requested rate.
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
    make_session: Callable[[RunJob], Session],
    source: Source,
    overlay: Overlay,
    sinks: Sequence[Sink],
    *,
    options: MemberOptions | None = None,
    stop: threading.Event | None = None,
    on_frame: Callable[[int], None] | None = None,
    pacing: Pacing | None = None,
    on_event: EventHandler | None = None,
    inspect: Inspect = no_inspection,
    view: LiveView | None = None,
    draft: bool = False,
) -> RunReport:
    """Segment a source into sinks; ends the sinks, not the source or the stream.

    Snapshots are written in the sinks' thread: whatever one covers is in the outputs before it.

    Args:
        make_session: makes the session of the stream; its argument is the session's ``run_job``.
        source: of the frames; iterated in a thread of its own.
        overlay: draws the pictures that sinks get.
        sinks: outputs, written in a thread of their own.
        options: where to begin and end.
        stop: set it to end after the current frame; the outputs are completed.
        on_frame: called in this thread with the number of frames stepped so far.
        pacing: what happens where the step is slower than the source.
        on_event: gets events ``late``.
        inspect: see ``Outputs``.
        view: shows the stream while it runs; gets no events from here.
        draft: the caller throws the outputs away after a failure; its message names none.

    Raises:
        SourceError: the source failed.
        StateMismatch: the source has another frame at the position that the session resumes from.
        SinkError: an output failed.
        StreamsegError: whatever the step raises, or a snapshot that was requested is missing. In
            every case the outputs that hold frames are completed, and the message says so.
    """
    stop, pace = stop or threading.Event(), pacing or Pacing()
    loop, times = RoundRobin(stop=stop), StageTimes()
    writer = Writer(Outputs(lambda _source: sinks, overlay, inspect), times, notify=loop.wake)
    session = make_session(writer.do)
    decoder = Decoder(
        source,
        times,
        when_behind=pace.when_behind,
        notify=loop.wake,
        prepare=session.prepare,
    )
    member = Member(
        source.name,
        session,
        decoder,
        writer,
        watch=LatencyWatch(pace.max_latency, source.name, on_event),
        times=times,
        options=options or MemberOptions(),
    )
    begin = time.perf_counter()
    try:
        if view is not None:
            view.join(member)
        loop.join(member)
        for count, done in enumerate(loop, 1):
            if view is not None:
                view.offer(member, done)
            if on_frame is not None:
                on_frame(count)
    finally:
        # Set by a request, or else by the loop's own close.
        stopped = stop.is_set() and member.name in loop.names
        loop.close()
        if view is not None:
            view.leave(member)
        if not writer.opened:
            for sink in sinks:
                sink.discard()
    if member.error is not None:
        raise _with_kept(member.error, () if draft else writer.sentences)
    return RunReport(
        writer.written,
        time.perf_counter() - begin,
        stopped,
        times.summary(),
        writer.sentences,
        dropped=member.decoder.dropped,
        passed_over=source.passed_over,
        corrupt=source.corrupt,
        reconnects=source.reconnects,
        late=member.watch.late,
    )


def _with_kept(error: BaseException, outputs: Sequence[str]) -> BaseException:
    if not isinstance(error, StreamsegError) or not outputs:
        return error
    kept = type(error)(f"{error} (kept: {'; '.join(outputs)})")
    kept.__cause__ = error
    return kept

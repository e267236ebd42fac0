"""Many streams over one executable: each with its own source, state and figures."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from streamseg.errors import StreamsegError
from streamseg.runtime.loop.core_shares import share_cores
from streamseg.runtime.loop.decoding import Decoder, OpenSource, Pacing
from streamseg.runtime.loop.latency import LatencyWatch
from streamseg.runtime.loop.member import Member, MemberOptions
from streamseg.runtime.loop.round_robin import RoundRobin
from streamseg.runtime.loop.stream_metrics import StreamMetrics
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.loop.writing import Outputs, Writer
from streamseg.runtime.session.events import Event, EventHandler
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session, run_now
from streamseg.runtime.session.snapshots import SnapshotPlan
from streamseg.runtime.sources import Source, SourceOptions, open_source
from streamseg.runtime.stream import Stream, open_stream

# Names become parts of file names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Hundreds of decoders with a thread a core each would be too many.
OPTIONS = SourceOptions(decode_threads=1, await_source=True)

TIMES_KEPT = 256  # of each stage; hundreds of streams keep theirs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What goes with a stream besides its source and its state.

    Attributes:
        outputs: what to write of it; None writes nothing.
        limit: frames after which it leaves.
        on_join: called with the member before its source is opened; what it raises keeps the
            stream out.
        on_leave: called when it has left and its outputs are complete; see ``MemberOptions``.
    """

    outputs: Outputs | None = None
    limit: int | None = None
    on_join: Callable[[Member], None] = lambda _member: None
    on_leave: Callable[[Member], None] = lambda _member: None


class Fleet(RoundRobin):
    """Many streams over one executable; iterate to get their labels. See ``RoundRobin``.

    Args:
        stream: of the bundle; every member is a sibling of it. Closed by ``close``.
        stay: wait for further streams after the last one has left.
        stop: set it to end the iteration, as ``stop`` does.
        on_event: gets the events of all streams, in whichever thread they happen.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        stay: bool = False,
        stop: threading.Event | None = None,
        on_event: EventHandler | None = None,
    ) -> None:
        super().__init__(stay=stay, stop=stop, parallel=stream.parallel)
        self.stream = stream
        self._on_event = on_event or log_event

    def add(
        self,
        name: str,
        source: str | OpenSource,
        *,
        options: SourceOptions | None = None,
        policy: StatePolicy | None = None,
        pacing: Pacing | None = None,
        snapshots: SnapshotPlan | None = None,
        attachment: Attachment | None = None,
    ) -> Member:
        """Let a stream join; its source is opened in its own thread, its end is an event.

        Args:
            name: unique in the fleet.
            source: address as of ``open_source``, or what opens the source.
            options: how to read an address; by default with one thread a decoder, and with
                patience where a live source is not there yet.
            policy: when its state is reset.
            pacing: what happens where the stream is slower than its source.
            snapshots: where its state is written to and read from.
            attachment: outputs and hooks.

        Raises:
            StreamsegError: the name is taken, or the fleet is stopped.
            StateMismatch: the snapshot to resume from is missing, or of another bundle.
        """
        if not NAME.fullmatch(name):
            raise StreamsegError(
                f"stream name {name!r} is not up to 64 letters, digits and . _ - that begin with a "
                "letter or digit"
            )
        if self.stopped:
            raise StreamsegError(f"the fleet is stopped; stream '{name}' cannot join")
        self.check_name(name)
        attached, plan = attachment or Attachment(), snapshots or SnapshotPlan()
        pace = pacing or Pacing()
        metrics, times = StreamMetrics(), StageTimes(TIMES_KEPT)

        def tell(event: Event) -> None:
            named = replace(event, stream=name)
            metrics.count(named)
            self._on_event(named)

        def open_address(stop: threading.Event) -> Source:
            assert isinstance(source, str)
            return open_source(source, options or OPTIONS, on_event=tell, stop=stop)

        writer = None
        if attached.outputs is not None:
            writer = Writer(attached.outputs, times, notify=self.wake)
        session = Session(
            self.stream.sibling(),
            policy,
            name=name,
            on_event=tell,
            snapshot=plan.snapshot,
            snapshot_every=plan.snapshot_every,
            run_job=run_now if writer is None else writer.do,
        )
        decoder = Decoder(
            open_address if isinstance(source, str) else source,
            times,
            when_behind=pace.when_behind,
            notify=self.wake,
            prepare=session.prepare,
        )
        member = Member(
            name,
            session,
            decoder,
            writer,
            watch=LatencyWatch(pace.max_latency, name, tell),
            times=times,
            metrics=metrics,
            options=MemberOptions(
                limit=attached.limit,
                on_leave=attached.on_leave,
                release=session.stream.close,
            ),
        )
        try:
            if plan.found is not None:
                session.load(plan.found)
            attached.on_join(member)
            self.join(member)
        except BaseException:
            session.stream.close()
            raise
        return member

    def close(self) -> None:
        """Stop every stream and release the bundle; closing twice is fine."""
        super().close()
        self.stream.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def log_event(event: Event) -> None:
    """Log an event that nobody else takes."""
    logger.info("%s: %s: %s", event.stream, event.kind, event.reason)


def open_fleet(
    bundle: str | os.PathLike[str],
    sources: Mapping[str, str] | None = None,
    *,
    stay: bool = False,
    stop: threading.Event | None = None,
    on_event: EventHandler | None = None,
    expected: int | None = None,
    **options: Any,
) -> Fleet:
    """Open a bundle for many streams; exported as ``streamseg.open_fleet``.

    On the CPU, as many streams as cores or more may be stepped at once, one a core with one thread
    each. Whether that segments more frames a second than all cores on one step is measured the
    first time and remembered; with ``threads`` or ``parallel`` nothing is chosen.

    Args:
        bundle: folder that ``streamseg export`` wrote.
        sources: name -> address of the streams to begin with.
        stay: wait for further streams after the last one has left.
        stop: set it to end the iteration.
        on_event: gets the events of all streams, in whichever thread they happen.
        expected: streams that will join; by default those of ``sources``.
        options: as of ``streamseg.open``: ``backend``, ``native``, ``threads``, ...
    Raises:
        BundleError, BackendError, PluginNotFound: as ``streamseg.open``.
        StreamsegError: an invalid name.
    """
    count = len(sources or {}) if expected is None else expected
    shares = share_cores(bundle, count, options)
    stream = open_stream(bundle, **{**options, **shares})
    fleet = Fleet(stream, stay=stay, stop=stop, on_event=on_event)
    try:
        for name, source in (sources or {}).items():
            fleet.add(name, source)
    except BaseException:
        fleet.close()
        raise
    return fleet

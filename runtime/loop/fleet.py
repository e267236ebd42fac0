"""Many streams over one executable: each with its own source, state and figures."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from streamseg.errors import StreamsegError
from streamseg.runtime.loop.decoding import PATIENCE, WAIT, WhenBehind
from streamseg.runtime.loop.feeding import Feeder, OpenSource
from streamseg.runtime.loop.latency import LatencyWatch
from streamseg.runtime.loop.stream_metrics import StreamMetrics
from streamseg.runtime.session.events import Event, EventHandler, EventKind
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame, Source, SourceOptions, open_source
from streamseg.runtime.stream import StepResult, Stream, open_stream

# Names become parts of file names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Hundreds of decoders with a thread a core each would be too many.
OPTIONS = SourceOptions(decode_threads=1, await_source=True)

logger = logging.getLogger(__name__)


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


class Member:
    """A stream of a fleet.

    Attributes:
        session: its state and policy.
        metrics: its figures.
        feeder: reads its source.
        watch: counts what is late.
        last: frame that was stepped last.
        hold: while it gives True the stream is not stepped, though frames are there.
        on_leave: called when the stream leaves, whatever the reason.
    """

    def __init__(self, session: Session, feeder: Feeder, watch: LatencyWatch) -> None:
        self.session, self.feeder, self.watch = session, feeder, watch
        self.metrics = StreamMetrics()
        self.last: Frame | None = None
        self.hold: Callable[[], bool] = lambda: False
        self.on_leave: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """Of the stream."""
        return self.session.name

    @property
    def source_name(self) -> str:
        """What to call the source, without passwords; empty until it is open."""
        return "" if self.feeder.source is None else self.feeder.source.name

    def refresh(self) -> None:
        """Bring the figures that others count up to date."""
        self.metrics.dropped, self.metrics.late = self.feeder.dropped, self.watch.late
        if self.feeder.source is not None:
            self.metrics.corrupt = self.feeder.source.corrupt


class Fleet:
    """Steps many streams in turn; iterate to get their labels.

    Every source is read in a thread of its own. The iterating thread steps them round robin: each
    stream with a frame ready gets one step before any gets another, and a stream without one is
    passed by. Iteration ends when no stream is left, or after ``stop``.

    ``add``, ``remove`` and ``stop`` may be called from any thread, also while iterating.

    Args:
        stream: of the bundle; every member is a sibling of it. Closed by ``close``.
        stay: wait for further streams when none is left.
        stop: set it to end the iteration, as ``stop`` does.
        on_event: gets the events of all streams, in whichever thread they happen.

    Attributes:
        failed: names of streams that left because their source or step failed.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        stay: bool = False,
        stop: threading.Event | None = None,
        on_event: EventHandler | None = None,
    ) -> None:
        self.stream = stream
        self.failed: set[str] = set()
        self._stay, self._on_event = stay, on_event
        self._members: dict[str, Member] = {}
        self._order: deque[Member] = deque()
        self._leaving: list[Feeder] = []
        self._lock = threading.RLock()
        self._wake, self._stop = threading.Event(), stop or threading.Event()
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._turn = time.monotonic()
        self._served = 0.0

    def add(
        self,
        name: str,
        source: str | OpenSource,
        *,
        options: SourceOptions | None = None,
        policy: StatePolicy | None = None,
        when_behind: WhenBehind | None = None,
        max_latency: float | None = None,
        on_join: Callable[[Member], None] | None = None,
    ) -> Member:
        """Let a stream join; its source is opened in its own thread, its end is an event.

        Args:
            name: unique in the fleet.
            source: address as of ``open_source``, or what opens the source.
            options: how to read an address; by default with one thread a decoder, and with
                patience where a live source is not there yet.
            policy: when its state is reset.
            when_behind: ``drop`` or ``wait``; by default live sources drop and others wait.
            max_latency: seconds after which labels count as late.
            on_join: called with the member before its source is opened; what it raises keeps the
                stream out.

        Raises:
            StreamsegError: the name is taken, or the fleet is stopped.
        """

        def tell(event: Event) -> None:
            self._tell(replace(event, stream=name))

        def open_address(stop: threading.Event) -> Source:
            assert isinstance(source, str)
            return open_source(source, options or OPTIONS, on_event=tell, stop=stop)

        if not NAME.fullmatch(name):
            raise StreamsegError(
                f"stream name {name!r} is not up to 64 letters, digits and . _ - that begin with a "
                "letter or digit"
            )
        with self._lock:
            if name in self._members:
                raise StreamsegError(f"the fleet has a stream '{name}' already; choose a new name")
            if self._stop.is_set():
                raise StreamsegError(f"the fleet is stopped; stream '{name}' cannot join")
            session = Session(self.stream.sibling(), policy, name=name, on_event=tell)
            opening = open_address if isinstance(source, str) else source
            feeder = Feeder(opening, when_behind, self._wake.set)
            member = Member(session, feeder, LatencyWatch(max_latency, name, tell))
            if on_join is not None:
                on_join(member)
            self._members[name] = member
            self._order.append(member)
            self.failed.discard(name)
        feeder.start()
        return member

    def remove(self, name: str, error: StreamsegError | None = None) -> None:
        """Let a stream leave after the step under way; returns at once.

        Args:
            name: of the stream.
            error: why it has to leave, where it failed.
        Raises:
            StreamsegError: there is no such stream.
        """
        with self._lock:
            member = self._members.get(name)
            if member is None:
                raise StreamsegError(f"the fleet has no stream '{name}'")
            if error is not None:
                self._fail(member, error)
            else:
                self._drop(member, "removed")

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the streams that take part."""
        with self._lock:
            return tuple(self._members)

    @property
    def idle(self) -> float:
        """Seconds since the iteration last came round; it does several times a second."""
        return time.monotonic() - self._turn

    def __iter__(self) -> Iterator[FleetFrame]:
        """Yield labels as they come, of one stream after the other."""
        while not self._stop.is_set():
            self._turn = time.monotonic()
            self._wake.clear()
            while not self._requests.empty():
                self._requests.get()()
            self._serve()
            member = self._next_member()
            if member is None:
                if not self._members and not self._stay:
                    return
                self._wake.wait(WAIT)
                continue
            done = self._step(member)
            if done is not None:
                yield done

    def _next_member(self) -> Member | None:
        """The next in turn that can be stepped; lets go of those whose source is over."""
        with self._lock:
            for _ in range(len(self._order)):
                member = self._order[0]
                self._order.rotate(-1)
                if member.feeder.over:
                    self._end(member)
                elif member.feeder.ready and not member.hold():
                    return member
        return None

    def _step(self, member: Member) -> FleetFrame | None:
        frame = member.feeder.take()
        if frame is None:
            return None
        if member.session.frames == 0:
            size = f"{frame.size[0]}x{frame.size[1]}"
            self._emit(member, "start", f"{member.source_name}: {size}", frame)
        try:
            result = member.session.process(frame)
        except StreamsegError as error:
            self._fail(member, error)
            return None
        member.last = frame
        latency = member.metrics.record(frame)
        member.watch.check(frame)
        member.refresh()
        return FleetFrame(member.name, frame, result, latency)

    def _serve(self) -> None:
        """Do what was asked of streams that have no frame at the moment."""
        now = time.monotonic()
        if now - self._served < WAIT:
            return
        self._served = now
        with self._lock:
            members = list(self._order)
        for member in members:
            member.session.serve()
            member.refresh()

    def _end(self, member: Member) -> None:
        error = member.feeder.error
        if error is not None and not isinstance(error, StreamsegError):
            raise error
        if error is not None:
            self._fail(member, error)
        else:
            self._drop(member, "the source ended")

    def _fail(self, member: Member, error: StreamsegError) -> None:
        with self._lock:
            self.failed.add(member.name)
            self._drop(member, str(error))

    def _drop(self, member: Member, reason: str) -> None:
        """Take a stream out; the caller holds the lock."""
        if self._members.get(member.name) is not member:
            return
        del self._members[member.name]
        self._order.remove(member)
        member.feeder.halt()
        self._leaving = [feeder for feeder in self._leaving if feeder.is_alive()]
        self._leaving.append(member.feeder)
        self._emit(member, "end", reason)
        member.on_leave()

    def _emit(
        self, member: Member, kind: EventKind, reason: str, frame: Frame | None = None
    ) -> None:
        last = member.last
        if frame is not None:
            index, timestamp = frame.index, frame.timestamp
        else:
            index, timestamp = (0, 0.0) if last is None else (last.index + 1, last.timestamp)
        self._tell(Event(kind, member.name, index, timestamp, reason))

    def _tell(self, event: Event) -> None:
        member = self._members.get(event.stream)
        if member is not None:
            member.metrics.count(event)
        if self._on_event is not None:
            self._on_event(event)
        else:
            logger.info("%s: %s: %s", event.stream, event.kind, event.reason)

    def request(self, action: Callable[[], None]) -> None:
        """Call ``action`` in the iterating thread before the next step; fit for signal handlers."""
        self._requests.put(action)

    def stop(self) -> None:
        """End the iteration after the step under way."""
        self._stop.set()
        self._wake.set()

    def close(self) -> None:
        """Stop every stream and release the bundle; closing twice is fine."""
        self.stop()
        with self._lock:
            for member in list(self._members.values()):
                self._drop(member, "the fleet was closed")
            leaving, self._leaving = self._leaving, []
        deadline = time.monotonic() + PATIENCE
        for feeder in leaving:
            feeder.join(max(0.0, deadline - time.monotonic()))
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


def open_fleet(
    bundle: str | os.PathLike[str],
    sources: Mapping[str, str] | None = None,
    *,
    stay: bool = False,
    stop: threading.Event | None = None,
    on_event: EventHandler | None = None,
    **options: Any,
) -> Fleet:
    """Open a bundle for many streams; exported as ``streamseg.open_fleet``.

    Args:
        bundle: folder that ``streamseg export`` wrote.
        sources: name -> address of the streams to begin with.
        stay: wait for further streams when none is left.
        stop: set it to end the iteration.
        on_event: gets the events of all streams, in whichever thread they happen.
        options: as of ``streamseg.open``: ``backend``, ``native``, ``threads``, ...
    Raises:
        BundleError, BackendError, PluginNotFound: as ``streamseg.open``.
        StreamsegError: a name that is none.
    """
    fleet = Fleet(open_stream(bundle, **options), stay=stay, stop=stop, on_event=on_event)
    try:
        for name, source in (sources or {}).items():
            fleet.add(name, source)
    except BaseException:
        fleet.close()
        raise
    return fleet

"""A device's order of things: streams under a seeded scheduler, and who touches which memory when.

What a real device leaves to luck is recorded in ``violations``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEGACY = 1  # handle of the default stream

Clock = dict[int, int]
Range = tuple[int, int]  # first address, and the one after the last


@dataclass
class Work:
    """What a stream runs: phases, between which other streams may advance, and what it touches."""

    name: str
    phases: Sequence[Callable[[], None]] = ()
    reads: Sequence[Range] = ()
    writes: Sequence[Range] = ()
    enqueued: Callable[[], None] | None = None  # called whenever the work is put on a stream


@dataclass
class Mark:
    """A recorded event: done, or not yet; and what is over when it is done."""

    clock: Clock
    done: bool = False


@dataclass
class Entry:
    """Work in a queue, with the phases that have run."""

    work: Work
    position: int = 0
    waits_for: Mark | None = None


@dataclass
class Access:
    """Memory touched by work that the host has not waited for."""

    name: str
    area: Range
    writes: bool
    queue: int
    number: int


@dataclass
class Queue:
    """A stream."""

    handle: int
    device: int
    entries: list[Entry] = field(default_factory=list)
    clock: Clock = field(default_factory=dict)
    captured: list[Work] | None = None
    capturing_thread: int = 0
    invalid: bool = False

    @property
    def runnable(self) -> bool:
        if not self.entries:
            return False
        mark = self.entries[0].waits_for
        return mark is None or mark.done


def join(clock: Clock, other: Clock) -> None:
    for queue, number in other.items():
        clock[queue] = max(clock.get(queue, 0), number)


class IllegalAddress(Exception):
    """A copy or a kernel touched memory that is not the device's."""


class FakeDevice:
    """Streams, and memory accesses that the host has not waited for.

    Every third seed makes a device that runs nothing before somebody waits for it.
    """

    def __init__(self, seed: int) -> None:
        self.pace = (0, 4, 2)[seed % 3]  # phases at most that run beside a call
        self.violations: list[str] = []
        self.queues: dict[int, Queue] = {LEGACY: Queue(LEGACY, 0)}
        self.random = np.random.default_rng(seed)
        self.lock = threading.RLock()
        self.lost: Any = None
        self.host: Clock = {}
        self.accesses: list[Access] = []
        self._current = threading.local()

    @property
    def current(self) -> int:
        """This thread's device."""
        return int(getattr(self._current, "device", 0))

    def queue(self, stream: Any) -> Queue:
        handle = int(stream) or LEGACY
        if handle not in self.queues:
            self.violate("a stream is used that its owner has destroyed")
            raise IllegalAddress("the stream is destroyed")
        return self.queues[handle]

    # The scheduler.

    def idle(self) -> None:
        """Let streams advance, or not."""
        for _ in range(int(self.random.integers(0, self.pace + 1))):
            self.advance()

    def advance(self) -> bool:
        """One phase of one stream; whether there was any to run."""
        runnable = [queue for queue in self.queues.values() if queue.runnable]
        if not runnable or self.lost is not None:
            return False
        queue = runnable[int(self.random.integers(len(runnable)))]
        entry = queue.entries[0]
        if entry.position < len(entry.work.phases):
            entry.position += 1
            try:
                entry.work.phases[entry.position - 1]()
            except IllegalAddress:
                return True  # the context is lost
        if entry.position >= len(entry.work.phases):
            queue.entries.remove(entry)
        return True

    def drain(self, stream: Any) -> None:
        """Run until a stream is empty, as whoever waits for it does."""
        with self.lock:
            queue = self.queue(stream)
            self.run_until(lambda: not queue.entries)
            join(self.host, queue.clock)

    def run_until(self, over: Callable[[], bool]) -> None:
        while not over() and self.lost is None:
            if not self.advance():
                raise AssertionError("deadlock: a wait for work that waits itself")

    # Who touches what, in which order.

    def add(self, stream: Any, work: Work) -> None:
        """Put work on a stream, or into the graph that it captures."""
        with self.lock:
            queue = self.queue(stream)
            if queue.captured is not None:
                queue.captured.append(work)
                return
            if queue.device != self.current and queue.handle != LEGACY:
                self.violate(f"{work.name}: the stream's device is not current in this thread")
            join(queue.clock, self.host)
            number = queue.clock[queue.handle] = queue.clock.get(queue.handle, 0) + 1
            self._check_order(queue, work)
            for areas, writes in ((work.reads, False), (work.writes, True)):
                for area in areas:
                    access = Access(work.name, area, writes, queue.handle, number)
                    self.accesses.append(access)
            queue.entries.append(Entry(work))
            if work.enqueued is not None:
                work.enqueued()

    def _check_order(self, queue: Queue, work: Work) -> None:
        host = self.host
        self.accesses = [a for a in self.accesses if host.get(a.queue, 0) < a.number]
        for access in self.accesses:
            if queue.clock.get(access.queue, 0) >= access.number:
                continue
            areas = (*work.writes, *work.reads) if access.writes else work.writes
            if any(overlap(area, access.area) for area in areas):
                self.violate(f"race: {work.name} and {access.name} on the same memory")

    def unfinished(self, area: Range) -> list[Access]:
        """Work on an area that the host has not waited for, whether it has run or not."""
        return [
            access
            for access in self.accesses
            if self.host.get(access.queue, 0) < access.number and overlap(area, access.area)
        ]

    def read_on_host(self, area: Range) -> None:
        """The host reads an area now, by a copy that waits for no stream."""
        for access in self.unfinished(area):
            if access.writes:
                self.violate(f"race: a copy to the host and {access.name} on the same memory")

    def pending(self, area: Range, *, writes_only: bool = False) -> list[str]:
        """Names of work that has not run and touches an area."""
        names = []
        for queue in self.queues.values():
            for entry in queue.entries:
                touched = list(entry.work.writes)
                touched += [] if writes_only else list(entry.work.reads)
                if any(overlap(area, other) for other in touched):
                    names.append(entry.work.name)
        return names

    def violate(self, what: str) -> None:
        self.violations.append(what)


def overlap(first: Range, second: Range) -> bool:
    return first[0] < second[1] and second[0] < first[1]

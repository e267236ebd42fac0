"""The loop: sources read ahead, steps in turn, outputs written beside; for one stream or many."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from streamseg.errors import StreamsegError, domain_error
from streamseg.runtime.loop.decoding import PATIENCE, WAIT
from streamseg.runtime.loop.member import FleetFrame, Member

AHEAD = 1  # steps begun beyond those that run: the host prepares the next


class RoundRobin:
    """Steps its members in turn; iterate to get their labels.

    Every source is read, and every output written, in a thread of its own. The iterating thread
    begins and finishes steps: each member with a frame ready gets one step before any gets another,
    and a member without one is passed by. While a step runs, the next frame is brought to the
    model's size and uploaded, and the labels before are passed on.

    Whatever a member's source, policy, step or output raises ends that member alone.

    ``join``, ``remove`` and ``stop`` may be called from any thread, also while iterating.

    Args:
        stay: wait for further members after the last one has left.
        parallel: steps of different members that run at once.
        stop: set it to end the iteration, as ``stop`` does.

    Attributes:
        failed: names of members that left because something of theirs failed.
    """

    def __init__(
        self, *, stay: bool = False, stop: threading.Event | None = None, parallel: int = 1
    ) -> None:
        self.failed: set[str] = set()
        self._stay, self._most_under_way = stay, parallel + AHEAD
        self._members: dict[str, Member] = {}
        self._order: deque[Member] = deque()
        self._under_way: deque[Member] = deque()
        self._leaving: deque[tuple[Member, str, BaseException | None]] = deque()
        self._left: list[Member] = []
        self._lock = threading.RLock()
        self._wake, self._stop = threading.Event(), stop or threading.Event()
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._turn = time.monotonic()
        self._served = 0.0

    def wake(self) -> None:
        """Wake up and look for work; for the threads that read and write."""
        self._wake.set()

    def join(self, member: Member) -> None:
        """Let a member join, and start its source.

        Raises:
            StreamsegError: the name is taken.
        """
        with self._lock:
            self.check_name(member.name)
            self._members[member.name] = member
            self._order.append(member)
            self.failed.discard(member.name)
        member.decoder.start()

    def check_name(self, name: str) -> None:
        """Raise StreamsegError where a stream of this name is a member already."""
        with self._lock:
            if name in self._members:
                raise StreamsegError(f"the fleet has a stream '{name}' already; choose a new name")

    def remove(self, name: str, error: BaseException | None = None) -> None:
        """Let a stream leave after the steps under way; returns at once.

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
            self._drop(member, "removed", error)

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the streams of the fleet."""
        with self._lock:
            return tuple(self._members)

    @property
    def idle(self) -> float:
        """Seconds since the iteration last came round; it does several times a second."""
        return time.monotonic() - self._turn

    def __iter__(self) -> Iterator[FleetFrame]:
        """Yield labels as they come, of one stream after the other."""
        try:
            while not self._stop.is_set():
                self._turn = time.monotonic()
                self._wake.clear()
                self._serve()
                if self._begin_next() and len(self._under_way) < self._most_under_way:
                    continue
                if self._under_way:
                    if self._wait_for_others():
                        continue
                    yield from self._finish_oldest()
                elif self._members or self._stay:
                    self._wake.wait(WAIT)
                elif not self._leaving:
                    return
            while self._under_way:
                yield from self._finish_oldest()
        finally:
            self._settle()

    def _serve(self) -> None:
        """Do what was requested: by others, by members that leave, of streams without a frame."""
        while not self._requests.empty():
            self._requests.get()()
        while self._leaving:
            self._see_off(*self._leaving.popleft())
        now = time.monotonic()
        if now - self._served < WAIT:
            return
        self._served = now
        with self._lock:
            members = list(self._order)
        for member in members:
            if not member.under_way:
                self._attempt(member, member.session.serve)
            member.refresh()

    def _begin_next(self) -> bool:
        """Begin a step of the next in turn that has a frame; releases those that are over."""
        with self._lock:
            for _ in range(len(self._order)):
                member = self._order[0]
                self._order.rotate(-1)
                over = member.why_over()
                if over is not None:
                    self._drop(member, *over)
                elif member.can_begin:
                    break
            else:
                return False
        before = member.under_way
        self._attempt(member, member.begin)
        if member.under_way > before:
            self._under_way.append(member)
        return True

    def _wait_for_others(self) -> bool:
        """Wait for a frame where the oldest step shares a batch that may still take it."""
        patience = self._under_way[0].session.patience
        if patience > 0 and len(self._under_way) < self._most_under_way:
            self._wake.wait(patience)
            return True
        return False

    def _finish_oldest(self) -> list[FleetFrame]:
        """The result of the step that was begun first; none where it failed or its stream left."""
        member = self._under_way.popleft()
        done = self._attempt(member, member.finish)
        return [done] if done is not None and self._members.get(member.name) is member else []

    def _attempt(self, member: Member, act: Callable[[], Any]) -> Any:
        """What ``act`` returns; None where it raises, and its member then leaves."""
        try:
            return act()
        except Exception as error:
            with self._lock:
                self._drop(member, "", domain_error(error, StreamsegError))
        return None

    def _drop(self, member: Member, reason: str, error: BaseException | None = None) -> None:
        """Take a member out; the caller holds the lock, the rest is done by ``_see_off``."""
        if error is not None and not isinstance(error, Exception):
            raise error
        if self._members.get(member.name) is not member:
            return
        del self._members[member.name]
        self._order.remove(member)
        if error is not None:
            self.failed.add(member.name)
        member.decoder.ask_to_end()
        self._leaving.append((member, reason, error))
        self._wake.set()

    def _see_off(self, member: Member, reason: str, error: BaseException | None) -> None:
        """Finish the steps of a member that left, and end its state and outputs."""
        self._under_way = deque(other for other in self._under_way if other is not member)
        while member.under_way:
            try:
                member.finish()
            except Exception as failure:
                error = error or domain_error(failure, StreamsegError)
        self._left = [other for other in self._left if not self._is_gone(other)]
        self._left.append(member)
        member.leave(reason, error)

    def _is_gone(self, member: Member) -> bool:
        """Whether a member's outputs are complete; where one failed, so did the member."""
        if not member.gone.is_set():
            return False
        if member.error is not None and member.name not in self._members:
            self.failed.add(member.name)
        return not member.decoder.is_alive()

    def _settle(self) -> None:
        """When nobody iterates, no step may be under way and no member half removed."""
        while self._under_way:
            self._finish_oldest()
        while self._leaving:
            self._see_off(*self._leaving.popleft())

    def request(self, action: Callable[[], None]) -> None:
        """Call ``action`` in the iterating thread before the next step; fit for signal handlers."""
        self._requests.put(action)

    @property
    def stopped(self) -> bool:
        """Whether the iteration was asked to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the iteration after the steps under way."""
        self._stop.set()
        self._wake.set()

    def close(self) -> None:
        """Let every member leave and wait until its outputs are complete.

        Closing twice is fine.
        """
        reason = "stopped by a request" if self._stop.is_set() else "the fleet was closed"
        self.stop()
        with self._lock:
            for member in list(self._members.values()):
                self._drop(member, reason)
        self._settle()
        for member in self._left:
            member.gone.wait()
        deadline = time.monotonic() + PATIENCE
        for member in self._left:
            member.decoder.join(max(0.0, deadline - time.monotonic()))
            self._is_gone(member)

"""Orderly shutdown on Ctrl-C and on a service manager's request."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType


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


@contextmanager
def call_on_signals(actions: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Call an action whenever its signal comes; what was there before comes back at the end.

    Python calls it in the main thread between two instructions: it should do no more than put
    something into a queue that bears that (``queue.SimpleQueue``).
    """
    previous = {number: signal.getsignal(number) for number in actions}

    def handle(number: int, _frame: FrameType | None) -> None:
        actions[signal.Signals(number)]()

    for number in actions:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""Progress on standard error: the phase at work, once it takes longer than a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.status import Status

PATIENCE = 2.0  # seconds until a phase is named where standard error is not a terminal

Phase = Callable[[str], None]


@contextmanager
def show_phases(first: str) -> Iterator[Phase]:
    """Name the phase at work; yields a function that begins the next one.

    A terminal gets a line that is cleared. Elsewhere a line is printed for a phase that takes
    longer than two seconds.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(first) as status:
            yield _clocked(status)
        return
    timer = _Timer(first)
    try:
        yield timer.begin
    finally:
        timer.stop()


def _clocked(status: Status) -> Phase:
    def begin(phase: str) -> None:
        status.update(phase)

    return begin


class _Timer:
    """Prints a phase once it has taken ``PATIENCE`` seconds."""

    def __init__(self, first: str) -> None:
        self._timer: threading.Timer | None = None
        self._started = time.monotonic()
        self.begin(first)

    def begin(self, phase: str) -> None:
        self.stop()
        self._timer = threading.Timer(PATIENCE, self._show, (phase,))
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _show(self, phase: str) -> None:
        click.echo(f"{phase} ...", err=True)

"""Events as lines for people and as JSON lines for programs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from streamseg.errors import SinkError
from streamseg.runtime.session.events import Event
from streamseg.runtime.sinks import JsonLines


class EventLog:
    """Handles events from any thread.

    A file that can no longer be written is given up with a message: a full disk must not end a
    stream that writes elsewhere.

    Args:
        echo: gets one line of text an event, but for ``start`` and ``end``.
        path: file to append JSON lines to, with the fields of ``Event``.

    Raises:
        SinkError: the file cannot be opened or written.
    """

    def __init__(self, echo: Callable[[str], None], path: str | Path | None = None) -> None:
        self._echo = echo
        self._lines = None if path is None else JsonLines(path)
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write one event."""
        with self._lock:
            if event.kind not in ("start", "end"):
                self._echo(str(event))
            if self._lines is None:
                return
            try:
                self._lines.write(asdict(event))
            except SinkError as error:
                self._echo(f"{error}; no further events go there")
                self._close()

    def _close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def close(self) -> None:
        """Close the file; events that still come are only echoed."""
        with self._lock:
            self._close()

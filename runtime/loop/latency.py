"""The age of label maps when they are ready."""

from __future__ import annotations

import math
import time

from streamseg.runtime.session.events import Event, EventHandler
from streamseg.runtime.sources import Frame

SILENCE = 5.0  # seconds between two events; what happens in between is counted in the next


class LatencyWatch:
    """Counts label maps that are ready later than a limit after their frame was received.

    Args:
        limit: seconds from ``Frame.received`` to the labels; None never complains.
        stream: name of the stream for the events.
        on_event: gets events ``late``, at most one every five seconds.
    """

    def __init__(
        self, limit: float | None, stream: str, on_event: EventHandler | None = None
    ) -> None:
        self.late = 0
        self._limit, self._stream, self._on_event = limit, stream, on_event
        self._told_at = -math.inf
        self._told = 0

    def check(self, frame: Frame) -> float:
        """Call when a frame's labels are ready; returns the seconds since it was received."""
        now = time.monotonic()
        age = now - frame.received
        if self._limit is None or age <= self._limit:
            return age
        self.late += 1
        if self._on_event is not None and now - self._told_at >= SILENCE:
            more = self.late - self._told - 1
            others = f"; {more} more since the last report" if more else ""
            reason = f"labels after {age * 1e3:.0f} ms, limit {self._limit * 1e3:.0f} ms{others}"
            self._on_event(Event("late", self._stream, frame.index, frame.timestamp, reason))
            self._told_at, self._told = now, self.late
        return age

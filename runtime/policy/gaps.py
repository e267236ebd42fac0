"""Gaps: times without a frame that are long for this stream."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

WINDOW = 8  # times between frames that tell what is usual


class GapDetector:
    """Finds gaps in the times of frames.

    A gap is longer than a limit, and also longer than ``ratio`` times the usual time between
    frames. Without the second condition a stream of less than one frame a second, or a model
    that takes seconds and drops what a camera sends meanwhile, would have a gap at every frame.

    Args:
        limit: seconds; ``None`` finds no gaps.
        ratio: times the median of the last times between frames.

    Attributes:
        intervals: the last times between frames, seconds, ``WINDOW`` at most.
    """

    def __init__(self, limit: float | None, ratio: float) -> None:
        self._limit, self._ratio = limit, ratio
        self.intervals: deque[float] = deque(maxlen=WINDOW)

    def is_gap(self, interval: float) -> bool:
        """Take the seconds from the last frame to the next; True where they are a gap."""
        usual = statistics.median(self.intervals) if self.intervals else 0.0
        self.intervals.append(interval)
        return self._limit is not None and interval > max(self._limit, self._ratio * usual)

    def restore(self, intervals: Iterable[float]) -> None:
        """Go on as a detector that had these."""
        self.intervals = deque(intervals, maxlen=WINDOW)

"""The state policy of a stream: its settings, and gaps in the times of its frames."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamseg.errors import StreamsegError
from streamseg.runtime.session.adaptation import Adaptation

OFF = math.inf  # a threshold that nothing reaches
WINDOW = 8  # times between frames that tell what is usual


@dataclass(frozen=True)
class StatePolicy:
    """What makes a session forget its state, and when it does less than a whole step.

    Attributes:
        gap_reset: a longer time in which the source had no picture, in seconds of the source,
            resets; ``None`` never does. It must also be ``gap_ratio`` times as long as is usual in
            the stream. Frames that a slow model leaves out are not missing.
        scene_cut: score of ``CutDetector`` from which a frame begins a new scene; ``None`` takes
            the bundle's threshold, ``OFF`` never resets.
        check_every: frames between two looks for values that are not finite; 0 never looks.
        gap_ratio: see ``GapDetector``; 0 lets ``gap_reset`` alone decide.
        adaptation: when less than a whole step is done; off by default.

    Raises:
        StreamsegError: a value out of its range.
    """

    gap_reset: float | None = 1.0
    scene_cut: float | None = None
    check_every: int = 25
    gap_ratio: float = 3.0
    adaptation: Adaptation = field(default_factory=Adaptation)

    def __post_init__(self) -> None:
        for name in ("gap_reset", "scene_cut"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise StreamsegError(f"{name} is {value}, expected a number above 0")
        if not self.gap_ratio >= 0:
            raise StreamsegError(f"gap_ratio is {self.gap_ratio}, expected 0 or more")
        if self.check_every < 0:
            raise StreamsegError(f"check_every is {self.check_every}, expected 0 or more frames")


class GapDetector:
    """Finds gaps in the times of a source's pictures.

    A gap is longer than a limit, and also longer than ``ratio`` times the usual time between
    pictures. Without the second condition a stream of less than one frame a second would have a
    gap at every frame.

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

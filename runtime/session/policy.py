"""The state policy of a stream: its settings, and gaps in the times of its frames."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamseg.errors import StreamsegError
from streamseg.option_fields import OFF as OFF
from streamseg.option_fields import check_options, option
from streamseg.runtime.session.adaptation import Adaptation

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

    gap_reset: float | None = option(
        "Reset the state after this many seconds without a frame.",
        default=1.0,
        above=0,
        off=True,
        metavar="SECONDS|off",
    )
    scene_cut: float | None = option(
        "Reset the state at scene cuts with at least this score.",
        default=None,
        above=0,
        off=True,
        metavar="SCORE|off",
        unset="the bundle's",
    )
    check_every: int = option(
        "Frames between checks of the state for NaN and infinity; 0 disables them.",
        default=25,
        low=0,
    )
    gap_ratio: float = option(
        "A gap must also be this many times longer than the usual time between frames.",
        default=3.0,
        low=0,
    )
    adaptation: Adaptation = field(default_factory=Adaptation)

    def __post_init__(self) -> None:
        check_options(self, StreamsegError)


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
        """Continue as a detector that had these."""
        self.intervals = deque(intervals, maxlen=WINDOW)

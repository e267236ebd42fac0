"""The settings of a stream's state policy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamseg.errors import StreamsegError

OFF = math.inf  # a threshold that nothing reaches


@dataclass(frozen=True)
class StatePolicy:
    """What makes a session forget its state.

    Attributes:
        gap_reset: a longer time between two frames, in seconds of the source, resets; ``None``
            never does. It must also be ``gap_ratio`` times as long as is usual in the stream.
        scene_cut: score of ``CutDetector`` from which a frame begins a new scene; ``None`` takes
            the bundle's threshold, ``OFF`` never resets.
        check_every: frames between two looks for values that are not finite; 0 never looks.
        gap_ratio: see ``GapDetector``; 0 lets ``gap_reset`` alone decide.

    Raises:
        StreamsegError: a value out of its range.
    """

    gap_reset: float | None = 1.0
    scene_cut: float | None = None
    check_every: int = 25
    gap_ratio: float = 3.0

    def __post_init__(self) -> None:
        for name in ("gap_reset", "scene_cut"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise StreamsegError(f"{name} is {value}, expected a number above 0")
        if not self.gap_ratio >= 0:
            raise StreamsegError(f"gap_ratio is {self.gap_ratio}, expected 0 or more")
        if self.check_every < 0:
            raise StreamsegError(f"check_every is {self.check_every}, expected 0 or more frames")

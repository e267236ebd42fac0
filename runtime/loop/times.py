"""Seconds that each stage of a run takes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

STAGES = ("decode", "resize", "preprocess", "step", "overlay", "encode")
TIMES_KEPT = 10_000  # a stream may run for weeks


@dataclass(frozen=True)
class StageTime:
    """Seconds a frame, over the last frames of a run."""

    median: float
    p95: float


class StageTimes:
    """Collects seconds by stage; each stage is recorded by one thread only.

    Args:
        kept: times of each stage to keep, the last ones.
    """

    def __init__(self, kept: int = TIMES_KEPT) -> None:
        self._seconds = {stage: deque[float](maxlen=kept) for stage in STAGES}

    def add(self, stage: str, seconds: float) -> None:
        """Record one frame."""
        self._seconds[stage].append(seconds)

    def summary(self) -> dict[str, StageTime]:
        """Median and 95th percentile of every stage that ran."""
        return {
            stage: StageTime(float(np.median(values)), float(np.percentile(values, 95)))
            for stage, values in self._seconds.items()
            if values
        }

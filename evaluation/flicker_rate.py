"""Flicker: how often predictions change where the truth does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamseg.evaluation.datasets.label_classes import VOID

Labels = NDArray[np.uint8]


class Flicker:
    """Counts pairs of consecutive labelled frames, pixel by pixel.

    The flicker rate of class c is, among the pixels whose true class is c in both frames of a pair,
    the share whose predicted class differs between the two. For all classes together it is one
    minus the share that VC_2 measures, pooled over pairs.
    """

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self._before: tuple[Labels, Labels] | None = None
        self._counts = np.zeros((num_classes, 2), np.int64)

    def add(self, prediction: Labels, label: Labels) -> None:
        """Add a labelled frame."""
        before = self._before
        self._before = prediction.copy(), label.copy()
        if before is None or before[1].shape != label.shape:
            return
        stable = (label == before[1]) & (label != VOID)
        changed = stable & (prediction != before[0])
        for column, pixels in enumerate((changed, stable)):
            self._counts[:, column] += np.bincount(label[pixels], minlength=self._classes)

    def end_run(self) -> None:
        """No pair reaches across."""
        self._before = None

    def take_clip(self) -> NDArray[np.int64]:
        """End the clip: (K, 2) int64, changed and all pairs of pixels by true class."""
        self.end_run()
        counts, self._counts = self._counts, np.zeros_like(self._counts)
        return counts

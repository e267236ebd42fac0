"""How much labels flicker: the figure that shows the benefit of state."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np

from streamseg.runtime.video.resize import Image

WINDOW = 50


class FlickerMeter:
    """Share of pixels whose label changes from one frame to the next.

    For label maps L(t) of N pixels, flicker(t) = #{p : L(t, p) != L(t-1, p)} / N. ``mean`` is its
    average over the last ``WINDOW`` pairs of successive frames. Movement in the picture counts as
    well: the figure compares two runs over the same frames, it is not a property of one.
    """

    def __init__(self) -> None:
        self._last: Image | None = None
        self._shares: deque[float] = deque(maxlen=WINDOW)

    def add(self, labels: Image) -> None:
        """Take the next label map, (height, width) uint8; another size restarts."""
        last = self._last
        if last is None or last.shape != labels.shape:
            self._last = labels.copy()
            self._shares.clear()
            return
        changed = labels.size - int(np.count_nonzero(cv2.compare(last, labels, cv2.CMP_EQ)))
        self._shares.append(changed / labels.size)
        np.copyto(last, labels)

    def clear(self) -> None:
        """Forget everything: the next label map does not follow the last."""
        self._last = None
        self._shares.clear()

    @property
    def mean(self) -> float | None:
        """Mean share, 0 to 1; None before the second frame."""
        return sum(self._shares) / len(self._shares) if self._shares else None

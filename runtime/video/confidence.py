"""Confidence of the network in its labels, as a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from streamseg.runtime.video.resize import FrameFitter

BAND = 64  # rows of a confidence map worked on at a time, so that temporaries stay in the cache


def confidence_of(logits: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]) -> None:
    """Write 255 times the largest softmax probability, rounded; 0 where logits are NaN.

    Args:
        logits: (K, H, W) float32.
        out: (H, W) uint8, overwritten.
    """
    for top in range(0, logits.shape[1], BAND):
        band = logits[:, top : top + BAND]
        # The largest probability is 1 / sum(exp(logit - largest logit)).
        total = np.exp(band - band.max(axis=0)).sum(axis=0)
        out[top : top + BAND] = np.nan_to_num(np.rint(255.0 / total), nan=0.0)


class ConfidenceMaps:
    """Confidence maps at the frame's size; buffers are made once per frame size.

    Args:
        make_fitter: gives the fitter of frames of a size (height, width).
    """

    def __init__(self, make_fitter: Callable[[tuple[int, int]], FrameFitter]) -> None:
        self._make_fitter = make_fitter
        self._fitter: FrameFitter | None = None
        self._inner = np.empty((0, 0), np.uint8)

    def draw(
        self, logits: npt.NDArray[np.float32], frame_size: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """The map of (K, H, W) float32 logits, valid until the next call."""
        if self._fitter is None or self._fitter.frame_size != frame_size:
            self._fitter = self._make_fitter(frame_size)
            self._inner = np.empty(logits.shape[1:], np.uint8)
        confidence_of(logits, self._inner)
        return self._fitter.restore(self._inner)

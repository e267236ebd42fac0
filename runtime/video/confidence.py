"""Confidence of the network in its labels, as a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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

"""Streaming histograms of magnitudes, and the range that each method reads off them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

BINS = 4096
LEVELS = 127  # positive levels of symmetric INT8
PERCENTILE = 99.99

Counts = NDArray[np.float64]
Cost = Callable[[Counts, int], float]


@dataclass
class Histogram:
    """Counts of |x| over ``BINS`` equal bins from 0 to ``limit``.

    When a larger value comes, the limit doubles until it fits and neighbouring bins merge, so that
    one pass suffices and memory stays fixed. ``seen`` counts values, ``largest`` is exact.
    """

    counts: Counts = field(default_factory=lambda: np.zeros(BINS))
    limit: float = 2.0**-20
    largest: float = 0.0
    seen: int = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Add values of any shape; they must be finite."""
        magnitude = np.abs(values, dtype=np.float32).ravel()
        if not magnitude.size:
            return
        top = float(magnitude.max())
        if not math.isfinite(top):
            raise ValueError("a histogram takes finite values only")
        self.largest = max(self.largest, top)
        self.seen += magnitude.size
        while top >= self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.limit *= 2
        # OpenCV's histogram is some ten times faster than NumPy's; its upper bound is exclusive.
        found = cv2.calcHist([magnitude[None]], [0], None, [BINS], [0.0, self.limit])
        self.counts += found.ravel()

    def threshold(self, method: Method, percentile: float = PERCENTILE) -> float:
        """The magnitude that the largest INT8 level stands for; 0 where only zeros were seen.

        Args:
            method: ``minmax`` takes the largest value, ``percentile`` cuts off the outermost,
                ``mse`` minimises the squared error of rounding and clipping, ``entropy`` the
                Kullback-Leibler divergence of the quantised distribution.
            percentile: share of values kept by ``percentile``, in percent.
        """
        if self.largest == 0.0:
            return 0.0
        if method == "minmax":
            return self.largest
        if method == "percentile":
            return self._percentile(percentile)
        return self._search(_squared_error if method == "mse" else _divergence)

    def _percentile(self, percentile: float) -> float:
        share = np.cumsum(self.counts) / self.counts.sum()
        index = int(np.searchsorted(share, percentile / 100))
        return min(self.largest, (index + 1) * self.limit / BINS)

    def _search(self, cost: Cost) -> float:
        last = int(np.flatnonzero(self.counts)[-1]) + 1
        candidates = np.unique(np.linspace(min(last, LEVELS + 1), last, 128).astype(int))
        costs = [cost(self.counts[:last], int(stop)) for stop in candidates]
        stop = int(candidates[int(np.argmin(costs))])
        return min(self.largest, stop * self.limit / BINS)


def _squared_error(counts: Counts, stop: int) -> float:
    """Expected squared error, in bins, of rounding to 127 levels up to ``stop``."""
    centres = np.arange(len(counts)) + 0.5
    step = stop / LEVELS
    rounded = np.minimum(np.round(centres / step), LEVELS) * step
    return float((counts * np.square(centres - rounded)).sum())


def _divergence(counts: Counts, stop: int) -> float:
    """Kullback-Leibler divergence between the clipped distribution and its quantised form.

    Source: S. Migacz, 8-bit inference with TensorRT, GTC 2017 (the method, not its code).
    """
    clipped = counts[:stop].copy()
    clipped[-1] += counts[stop:].sum()
    edges = np.linspace(0, stop, LEVELS + 2).astype(int)
    level = np.repeat(np.arange(LEVELS + 1), np.diff(edges))
    kept = counts[:stop]
    mass = np.bincount(level, kept, LEVELS + 1)
    used = np.bincount(level, kept > 0, LEVELS + 1)
    spread = np.divide(mass, used, out=np.zeros_like(mass), where=used > 0)
    quantised = np.where(kept > 0, spread[level], 0.0)
    p, q = clipped / clipped.sum(), quantised / max(quantised.sum(), 1e-30)
    # A bin that only clipping filled has no counterpart: smooth instead of dropping it.
    q = np.maximum(q, 1e-12)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())

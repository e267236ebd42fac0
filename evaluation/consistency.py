"""Video consistency (VC) from runs of equal labels, one frame at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamseg.evaluation.datasets.label_classes import VOID

Labels = NDArray[np.uint8]
LONGEST_WINDOW = 60_000


@dataclass
class RunLengths:
    """For how many consecutive frames each pixel has kept its value."""

    longest: int
    value: Labels | None = None
    length: NDArray[np.uint16] | None = None

    def add(self, value: Labels) -> NDArray[np.uint16]:
        """Add a frame; returns (H, W) uint16 run lengths, at most ``longest``."""
        if self.value is None or self.length is None:
            self.length = np.ones(value.shape, np.uint16)
        else:
            longer = np.minimum(self.length, self.longest - 1) + np.uint16(1)
            self.length = np.where(value == self.value, longer, np.uint16(1))
        self.value = value.copy()
        return self.length

    def clear(self) -> None:
        """Forget the frames so far."""
        self.value = self.length = None


@dataclass
class _Windows:
    """VC of the windows of n frames in the current clip: (same, same and right) of each."""

    size: int
    last_counts: bool
    clip: list[tuple[float, float]] = field(default_factory=list)
    pending: tuple[float, float] | None = None

    def add(
        self, stable: NDArray[np.bool_], kept: NDArray[np.bool_], right: NDArray[np.bool_]
    ) -> None:
        self._flush()
        total = int(stable.sum())
        if total:
            same = stable & kept
            self.pending = (int(same.sum()) / total, int((same & right).sum()) / total)

    def _flush(self) -> None:
        if self.pending is not None:
            self.clip.append(self.pending)
        self.pending = None

    def end_run(self) -> None:
        if not self.last_counts:
            self.pending = None
        self._flush()

    def take(self) -> NDArray[np.float64]:
        self.end_run()
        found = np.array(self.clip, np.float64).reshape(-1, 2)
        self.clip = []
        return found


class Consistency:
    """VC_n of one clip after the other, for several n.

    Args:
        sizes: window lengths n.
        vspw_script: void counts as a class, and the last window of a run is left out.

    Source: VSPW (Miao et al., CVPR 2021), section 5; TV3S (CVPR 2025), eq. 4.
    """

    def __init__(self, sizes: tuple[int, ...], *, vspw_script: bool = False) -> None:
        self._vspw_script = vspw_script
        self._windows = [_Windows(size, not vspw_script) for size in sizes]
        self._truth, self._guess = (RunLengths(max(sizes, default=1)) for _ in range(2))
        self._run = 0

    def add(self, prediction: Labels, label: Labels) -> None:
        """Add a labelled frame of the size of the one before."""
        if self._truth.value is not None and self._truth.value.shape != label.shape:
            self.end_run()
        self._run += 1
        truth, guess = self._truth.add(label), self._guess.add(prediction)
        right = prediction == label
        for windows in self._windows:
            if self._run < windows.size:
                continue
            stable = truth >= windows.size
            if not self._vspw_script:
                stable &= label != VOID
            windows.add(stable, guess >= windows.size, right)

    def end_run(self) -> None:
        """End the run of labelled frames: no window reaches across."""
        for windows in self._windows:
            windows.end_run()
        self._truth.clear()
        self._guess.clear()
        self._run = 0

    def take_clip(self) -> dict[int, NDArray[np.float64]]:
        """End the clip: n -> (windows, 2), the share kept, and the share kept and right."""
        self.end_run()
        return {windows.size: windows.take() for windows in self._windows}

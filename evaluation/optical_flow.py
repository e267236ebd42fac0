"""Temporal consistency (TC): predictions against those of the frame before, moved by the flow."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError

FlowMethod = Literal["dis", "farneback"]
FLOW_METHODS: dict[FlowMethod, str] = {
    "dis": "DIS, medium preset, of OpenCV",
    "farneback": "Farneback of OpenCV: scale 0.5, 3 levels, window 15, 3 iterations, 5, 1.2",
}
_SMALLEST = 12  # DIS finds no scale below

Labels = NDArray[np.uint8]
Flow = NDArray[np.float32]


class FlowEstimator:
    """Backward flow of one frame after the other.

    Raises:
        DatasetError: a frame is too small.
    """

    def __init__(self, method: FlowMethod) -> None:
        self.method = method
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def estimate(self, image: Labels, before: Labels) -> Flow:
        """Where each pixel of ``image`` was in ``before``.

        Args:
            image: (H, W, 3) uint8 RGB.
            before: the same of the frame before.

        Returns:
            (H, W, 2) float32: pixel (x, y) was at (x, y) + flow[y, x].
        """
        if min(image.shape[:2]) < _SMALLEST:
            raise DatasetError(
                f"optical flow needs frames of {_SMALLEST} pixels or more a side, got "
                f"{image.shape[0]}x{image.shape[1]}"
            )
        grey, old = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (image, before))
        nothing: Any = None
        if self.method == "dis":
            return np.asarray(self._dis.calc(grey, old, nothing), np.float32)
        found = cv2.calcOpticalFlowFarneback(grey, old, nothing, 0.5, 3, 15, 3, 5, 1.2, 0)
        return np.asarray(found, np.float32)


def warp(labels: Labels, flow: Flow) -> tuple[Labels, NDArray[np.bool_]]:
    """Move the labels of the frame before to this frame, by nearest neighbour.

    Args:
        labels: (H, W) uint8 of the frame before.
        flow: (H, W, 2), see ``FlowEstimator.estimate``.

    Returns:
        (H, W) uint8, and where it is defined: pixels that come from outside are not.
    """
    height, width = labels.shape
    rows, columns = np.mgrid[:height, :width]
    x = np.rint(columns + flow[..., 0].astype(np.float64)).astype(np.int64)
    y = np.rint(rows + flow[..., 1].astype(np.float64)).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    moved = labels[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return moved, inside


def mean_overlap(a: Labels, b: Labels, where: NDArray[np.bool_]) -> float:
    """Mean IoU of two label maps over the labels that occur in either; NaN without pixels."""
    first, second = a[where].astype(np.int64), b[where].astype(np.int64)
    if not first.size:
        return float("nan")
    counts = [np.bincount(part, minlength=256) for part in (first, second)]
    hit = np.bincount(first[first == second], minlength=256)
    union = counts[0] + counts[1] - hit
    return float((hit[union > 0] / union[union > 0]).mean())


class TemporalConsistency:
    """TC of one clip after the other; needs no labels.

    For each two neighbouring frames, the mean IoU of the prediction of the later one and that of
    the earlier one moved by the optical flow of the images; the mean over a clip's pairs. Occlusion
    is not masked; pixels that come from outside the frame are left out.

    Source: ETC (Liu et al., ECCV 2020), section 4.1, with another flow: see ``FLOW_METHODS``.
    """

    def __init__(self, method: FlowMethod) -> None:
        self._flow = FlowEstimator(method)
        self._before: tuple[Labels, Labels] | None = None
        self._values: list[float] = []

    def add(self, prediction: Labels, image: Labels) -> None:
        """Add a frame: (H, W) uint8 labels and (h, w, 3) uint8 RGB."""
        size = prediction.shape
        if image.shape[:2] != size:
            resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
            image = np.asarray(resized, np.uint8)
        before, self._before = self._before, (prediction.copy(), image.copy())
        if before is None or before[0].shape != size:
            return
        moved, inside = warp(before[0], self._flow.estimate(image, before[1]))
        self._values.append(mean_overlap(prediction, moved, inside))

    def take_clip(self) -> NDArray[np.float64]:
        """End the clip: the value of each of its pairs."""
        found = np.array(self._values, np.float64)
        self._values, self._before = [], None
        return found[~np.isnan(found)]

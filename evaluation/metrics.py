"""Segmentation accuracy and video consistency, one frame at a time.

Memory is a confusion matrix and four maps of one frame, however long the clips are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets.label_classes import VOID

WINDOWS = (8, 16)
"""Window lengths n of mVCn."""

_SHORT_VIDEO = 16  # the published VSPW evaluator skips videos of this many frames or fewer

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class FrameScore:
    """Accuracy of one labelled frame: mIoU over the classes of its label, and pixel accuracy."""

    miou: float
    pixel_accuracy: float


@dataclass(frozen=True)
class Scores:
    """Results over everything that was added; fractions, NaN where nothing defines a value.

    ``iou`` has one entry a class, ``mvc`` and ``mvc_correct`` one entry for each window length.
    """

    frames: int
    labelled_frames: int
    iou: tuple[float, ...]
    miou: float
    weighted_iou: float
    pixel_accuracy: float
    mvc: dict[int, float]
    mvc_correct: dict[int, float]


def confusion(prediction: Labels, label: Labels, num_classes: int) -> NDArray[np.int64]:
    """Count pixels by true and predicted class, void left out.

    Args:
        prediction: (H, W) uint8; values of num_classes or more (255 = none) are misses.
        label: (H, W) uint8, 255 = void.
        num_classes: K.

    Returns:
        (K, K + 1) int64, true class by predicted class; the last column counts the misses.

    Raises:
        DatasetError: the label holds a class that is neither below K nor void.
    """
    valid = label != VOID
    true = label[valid].astype(np.int64)
    if true.size and true.max() >= num_classes:
        raise DatasetError(
            f"a label holds class {true.max()}, but there are {num_classes} classes: the dataset "
            "and the model do not belong together"
        )
    predicted = np.minimum(prediction[valid].astype(np.int64), num_classes)
    counts = np.bincount(
        true * (num_classes + 1) + predicted, minlength=num_classes * (num_classes + 1)
    )
    return counts.reshape(num_classes, num_classes + 1)


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class from ``confusion``; NaN where the union is empty."""
    square = counts[:, : len(counts)]
    hit = np.diag(square).astype(np.float64)
    union = counts.sum(1) + square.sum(0) - hit
    iou = np.full(len(hit), np.nan)
    np.divide(hit, union, out=iou, where=union > 0)
    return iou


def _mean(values: NDArray[np.float64] | list[float]) -> float:
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else float("nan")


@dataclass
class _Runs:
    """For each pixel, for how many frames on end its value has been the same."""

    longest: int
    value: Labels | None = None
    length: Labels | None = None

    def add(self, value: Labels) -> Labels:
        """Take in a frame; returns (H, W) uint8 run lengths, held at ``longest``."""
        if self.value is None or self.length is None:
            self.length = np.ones(value.shape, np.uint8)
        else:
            longer = np.minimum(self.length, self.longest - 1) + np.uint8(1)
            self.length = np.where(value == self.value, longer, np.uint8(1))
        self.value = value.copy()
        return self.length

    def clear(self) -> None:
        self.value = self.length = None


@dataclass
class _Consistency:
    """mVCn of the current clip and of the clips before it, for one n."""

    size: int
    vspw_script: bool
    clip: list[tuple[float, float]] = field(default_factory=list)
    pooled: list[tuple[float, float]] = field(default_factory=list)
    pending: tuple[float, float] | None = None

    def add(
        self, stable: NDArray[np.bool_], kept: NDArray[np.bool_], right: NDArray[np.bool_]
    ) -> None:
        """Take in the window that ends at this frame.

        Args:
            stable: pixels whose true class is constant in it.
            kept: pixels whose predicted class is constant in it.
            right: pixels predicted right at its end.
        """
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
        """The run of labelled frames ends: the published script never looks at its last window."""
        if self.vspw_script:
            self.pending = None
        self._flush()

    def end_clip(self, frames: int) -> None:
        """File the clip's windows: as one mean, or pooled with those of all clips."""
        self.end_run()
        if self.clip and not self.vspw_script:
            same, correct = np.mean(self.clip, axis=0)
            self.pooled.append((float(same), float(correct)))
        elif frames > _SHORT_VIDEO:
            self.pooled.extend(self.clip)
        self.clip = []


class SegmentationMetrics:
    """Accumulates mIoU, weighted IoU, pixel accuracy, mVC8 and mVC16.

    mVCn: for each window of n consecutive labelled frames, of the pixels whose true class is one
    and the same in all of them, the share whose predicted class is one and the same too; the mean
    over a clip's windows, then over clips. All N-n+1 windows of a clip count and void pixels do
    not. A window without any pixel of constant truth counts nowhere. ``mvc_correct`` asks that the
    predicted class is the true one besides.

    With ``vspw_script`` the semantics of the evaluator published with VSPW: N-n windows (the last
    is never looked at), all windows of all clips pooled, void kept as a class, clips of 16 frames
    or fewer skipped for mVC, and mIoU over the classes present in the labels (otherwise: over the
    classes present in labels or predictions).

    Source: VSPW (Miao et al., CVPR 2021), section 5.
    """

    def __init__(self, num_classes: int, *, vspw_script: bool = False) -> None:
        self.num_classes = num_classes
        self.vspw_script = vspw_script
        self._counts = np.zeros((num_classes, num_classes + 1), np.int64)
        self._truth = _Runs(max(WINDOWS))
        self._guess = _Runs(max(WINDOWS))
        self._consistency = [_Consistency(size, vspw_script) for size in WINDOWS]
        self._frames = self._labelled = 0
        self._run = 0  # labelled frames on end
        self._clip_frames = 0

    def start_clip(self) -> None:
        """Begin a clip: no window reaches across."""
        for consistency in self._consistency:
            consistency.end_clip(self._clip_frames)
        self._clip_frames = 0
        self._end_run()

    def _end_run(self) -> None:
        for consistency in self._consistency:
            consistency.end_run()
        self._truth.clear()
        self._guess.clear()
        self._run = 0

    def add(self, prediction: Labels, label: Labels | None) -> FrameScore | None:
        """Take in one frame.

        Args:
            prediction: (H, W) uint8 class indices, 255 = none.
            label: (H, W) uint8, 255 = void; None for a frame without label, over which no window
                reaches.

        Returns:
            The frame's own score; None without label.

        Raises:
            DatasetError: prediction and label differ in size, or the label has a class too many.
        """
        self._frames += 1
        self._clip_frames += 1
        if label is None:
            self._end_run()
            return None
        if prediction.shape != label.shape:
            raise DatasetError(
                f"the prediction is {prediction.shape} and the label {label.shape}: bring the "
                "prediction to the label's size first"
            )
        if self._truth.value is not None and self._truth.value.shape != label.shape:
            self._end_run()
        counts = confusion(prediction, label, self.num_classes)
        self._counts += counts
        self._labelled += 1
        self._add_windows(prediction, label)
        total = counts.sum()
        iou = class_iou(counts)[counts.sum(1) > 0]
        return FrameScore(_mean(iou), float(np.trace(counts) / total) if total else float("nan"))

    def _add_windows(self, prediction: Labels, label: Labels) -> None:
        self._run += 1
        truth, guess = self._truth.add(label), self._guess.add(prediction)
        right = prediction == label
        for consistency in self._consistency:
            if self._run < consistency.size:
                continue
            stable = truth >= consistency.size
            if not self.vspw_script:
                stable &= label != VOID
            consistency.add(stable, guess >= consistency.size, right)

    def scores(self) -> Scores:
        """End the current clip and return the results over everything added so far."""
        self.start_clip()
        counts = self._counts
        iou, truth = class_iou(counts), counts.sum(1)
        total = int(truth.sum())
        averaged = iou[truth > 0] if self.vspw_script else iou
        present = truth > 0
        return Scores(
            frames=self._frames,
            labelled_frames=self._labelled,
            iou=tuple(float(value) for value in iou),
            miou=_mean(averaged),
            weighted_iou=float((iou[present] * truth[present]).sum() / total)
            if total
            else float("nan"),
            pixel_accuracy=float(np.trace(counts) / total) if total else float("nan"),
            mvc={c.size: _mean([same for same, _ in c.pooled]) for c in self._consistency},
            mvc_correct={
                c.size: _mean([right for _, right in c.pooled]) for c in self._consistency
            },
        )

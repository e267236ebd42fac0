"""Segmentation accuracy and video consistency, one frame at a time.

Memory is a confusion matrix a clip and a few maps of one frame, however long the clips are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.boundaries import boundary_scores
from streamseg.evaluation.consistency import LONGEST_WINDOW, Consistency
from streamseg.evaluation.datasets.label_classes import VOID
from streamseg.evaluation.flicker_rate import Flicker
from streamseg.evaluation.optical_flow import FlowMethod, TemporalConsistency
from streamseg.option_fields import option

WINDOWS = (8, 16)
"""Window lengths n of mVCn, unless others are given."""

_SHORT_VIDEO = 16  # the published VSPW evaluator skips videos of this many frames or fewer

Labels = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MetricOptions:
    """What is measured.

    Attributes:
        windows: window lengths n of mVCn.
        vspw_script: see ``SegmentationMetrics``.
        boundary: measure the boundary F-score.
        flow: optical flow by which temporal consistency is measured, None: it is not.
    """

    windows: tuple[int, ...] = option("Window lengths n of mVCn.", default=WINDOWS, flag="mvc")
    vspw_script: bool = option("Score as VSPW's own evaluator does.", default=False)
    boundary: bool = option("Measure the boundary F-score.", default=False)
    flow: FlowMethod | None = option(
        "Measure temporal consistency (TC) with this optical flow.", default=None
    )

    def __post_init__(self) -> None:
        for n in self.windows:
            if not 2 <= n <= LONGEST_WINDOW:
                raise DatasetError(f"mVC{n}: expected a window of 2 to {LONGEST_WINDOW} frames")


@dataclass(frozen=True)
class FrameScore:
    """Accuracy of one labelled frame: mIoU over the classes of its label, and pixel accuracy."""

    miou: float
    pixel_accuracy: float


@dataclass(frozen=True)
class ClipScores:
    """What was counted in one clip.

    Attributes:
        name: of the clip.
        frames, labelled_frames: how many.
        counts: (K, K + 1) int64, see ``confusion``.
        windows: n -> (windows, 2), see ``Consistency.take_clip``.
        flicker: (K, 2) int64, see ``Flicker.take_clip``.
        boundary: (K, 2), sum of the frames' BF and number of frames that have one; zeros where it
            is not measured.
        warped: TC of each pair of frames; empty where it is not measured.
    """

    name: str
    frames: int
    labelled_frames: int
    counts: NDArray[np.int64]
    windows: dict[int, Floats]
    flicker: NDArray[np.int64]
    boundary: Floats
    warped: Floats

    @property
    def miou(self) -> float:
        """Mean IoU over the classes in the clip's labels or predictions."""
        return mean(class_iou(self.counts))

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are correct."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else float("nan")

    @property
    def tc(self) -> float:
        """Temporal consistency, NaN where it is not measured."""
        return mean(self.warped)

    @property
    def flicker_rate(self) -> float:
        """Flicker rate of all classes together."""
        changed, pairs = self.flicker.sum(0)
        return float(changed / pairs) if pairs else float("nan")

    def vc(self, n: int) -> float:
        """VC_n, NaN where the clip has no window."""
        return mean(self.windows[n][:, 0])


@dataclass(frozen=True)
class Scores:
    """Results over everything that was added; fractions, NaN where nothing defines a value.

    ``iou``, ``flicker`` and ``boundary`` have one entry a class, ``mvc`` and ``mvc_correct`` one
    entry for each window length. ``labelled`` counts the labelled pixels of each class.
    """

    frames: int
    labelled_frames: int
    iou: tuple[float, ...]
    miou: float
    weighted_iou: float
    pixel_accuracy: float
    mvc: dict[int, float]
    mvc_correct: dict[int, float]
    flicker: tuple[float, ...] = ()
    flicker_rate: float = float("nan")
    boundary: tuple[float, ...] = ()
    boundary_f: float = float("nan")
    tc: float = float("nan")
    labelled: tuple[int, ...] = ()

    @property
    def shown_iou(self) -> tuple[float, ...]:
        """``iou`` for tables: NaN also where a class is predicted and not in the labels.

        Its IoU is 0, whatever the model knows of the class.
        """
        if not self.labelled:
            return self.iou
        return tuple(
            value if count else float("nan")
            for value, count in zip(self.iou, self.labelled, strict=True)
        )


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
            "and the model do not match"
        )
    predicted = np.minimum(prediction[valid].astype(np.int64), num_classes)
    counts = np.bincount(
        true * (num_classes + 1) + predicted, minlength=num_classes * (num_classes + 1)
    )
    return counts.reshape(num_classes, num_classes + 1)


def class_iou(counts: NDArray[np.int64]) -> Floats:
    """Intersection over union of each class from ``confusion``; NaN where the union is empty."""
    square = counts[:, : len(counts)]
    hit = np.diag(square).astype(np.float64)
    return divide(hit, counts.sum(1) + square.sum(0) - hit)


def divide(a: NDArray[np.generic], b: NDArray[np.generic]) -> Floats:
    """``a / b`` as float64, NaN where ``b`` is 0."""
    below = np.asarray(b, np.float64)
    found = np.full(np.broadcast_shapes(np.shape(a), below.shape), np.nan)
    np.divide(np.asarray(a, np.float64), below, out=found, where=below > 0)
    return found


def mean(values: Floats | list[float]) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else float("nan")


@dataclass
class _ClipCounts:
    """Counters of the current clip."""

    name: str
    num_classes: int
    frames: int = 0
    labelled: int = 0
    counts: NDArray[np.int64] = field(init=False)
    boundary: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        self.boundary = np.zeros((self.num_classes, 2))


class SegmentationMetrics:
    """Accumulates mIoU, weighted IoU, pixel accuracy, mVCn, flicker, and more on request.

    mVCn: for each window of n consecutive labelled frames, of the pixels whose true class is one
    and the same in all of them, the share whose predicted class is one and the same too; the mean
    over a clip's windows, then over clips. All N-n+1 windows of a clip count and void pixels do
    not. A window without any pixel of constant truth counts nowhere. ``mvc_correct`` asks that the
    predicted class is the true one besides.

    With ``vspw_script`` the semantics of the evaluator published with VSPW: N-n windows (the last
    is never looked at), all windows of all clips pooled, void kept as a class, clips of 16 frames
    or fewer skipped for mVC, and mIoU over the classes present in the labels (otherwise: over the
    classes present in labels or predictions).

    Source: VSPW (Miao et al., CVPR 2021), section 5; ``Flicker``, ``boundary_scores`` and
    ``TemporalConsistency`` name theirs.
    """

    def __init__(self, num_classes: int, options: MetricOptions | None = None) -> None:
        self.num_classes = num_classes
        self.options = options or MetricOptions()
        self._clip = _ClipCounts("", num_classes)
        self._clips: list[ClipScores] = []
        self._consistency = Consistency(self.options.windows, vspw_script=self.options.vspw_script)
        self._flicker = Flicker(num_classes)
        flow = self.options.flow
        self._temporal = None if flow is None else TemporalConsistency(flow)

    def start_clip(self, name: str = "") -> None:
        """Begin a clip: no window and no pair of frames reaches across."""
        done = self._clip
        self._clip = _ClipCounts(name, self.num_classes)
        if not done.frames:
            return
        self._clips.append(
            ClipScores(
                name=done.name,
                frames=done.frames,
                labelled_frames=done.labelled,
                counts=done.counts,
                windows=self._consistency.take_clip(),
                flicker=self._flicker.take_clip(),
                boundary=done.boundary,
                warped=np.empty(0) if self._temporal is None else self._temporal.take_clip(),
            )
        )

    def add(
        self, prediction: Labels, label: Labels | None, image: Labels | None = None
    ) -> FrameScore | None:
        """Add one frame.

        Args:
            prediction: (H, W) uint8 class indices, 255 = none.
            label: (H, W) uint8, 255 = void; None for a frame without label, over which no window
                reaches.
            image: (h, w, 3) uint8 RGB, for the optical flow; required where ``flow`` is set.

        Returns:
            The frame's own score; None without label.

        Raises:
            DatasetError: prediction and label differ in size, or the label has a class too many.
        """
        self._clip.frames += 1
        if self._temporal is not None:
            if image is None:
                raise DatasetError("temporal consistency needs the image of each frame")
            self._temporal.add(prediction, image)
        if label is None:
            self._consistency.end_run()
            self._flicker.end_run()
            return None
        if prediction.shape != label.shape:
            raise DatasetError(
                f"the prediction is {prediction.shape} and the label {label.shape}: bring the "
                "prediction to the label's size first"
            )
        counts = confusion(prediction, label, self.num_classes)
        self._clip.counts += counts
        self._clip.labelled += 1
        self._consistency.add(prediction, label)
        self._flicker.add(prediction, label)
        if self.options.boundary:
            found = boundary_scores(prediction, label, self.num_classes)
            self._clip.boundary += np.stack([np.nan_to_num(found), ~np.isnan(found)], axis=1)
        total = counts.sum()
        iou = class_iou(counts)[counts.sum(1) > 0]
        return FrameScore(mean(iou), float(np.trace(counts) / total) if total else float("nan"))

    def clips(self) -> tuple[ClipScores, ...]:
        """End the current clip and return what was counted in each clip."""
        self.start_clip()
        return tuple(self._clips)

    def scores(self) -> Scores:
        """End the current clip and return the results over everything added so far."""
        return pool(self.clips(), self.num_classes, vspw_script=self.options.vspw_script)


def clip_consistency(
    clip: ClipScores, n: int, column: int, *, vspw_script: bool
) -> tuple[float, float]:
    """What a clip adds to mVCn: a sum and the weight that it is divided by.

    Args:
        clip: the clip.
        n: window length.
        column: 0 for the share kept, 1 for the share kept and right.
        vspw_script: windows are pooled, and short clips are skipped.
    """
    values = clip.windows[n][:, column]
    if not values.size or (vspw_script and clip.frames <= _SHORT_VIDEO):
        return 0.0, 0.0
    return (float(values.sum()), float(values.size)) if vspw_script else (mean(values), 1.0)


def _mean_consistency(
    clips: Sequence[ClipScores], n: int, column: int, *, vspw_script: bool
) -> float:
    parts = [clip_consistency(clip, n, column, vspw_script=vspw_script) for clip in clips]
    weight = sum(part[1] for part in parts)
    return sum(part[0] for part in parts) / weight if weight else float("nan")


def pool(clips: Sequence[ClipScores], num_classes: int, *, vspw_script: bool = False) -> Scores:
    """Scores over clips: pixels are pooled, mVCn and TC are means over clips."""
    empty = np.zeros((num_classes, num_classes + 1), np.int64)
    counts = sum((clip.counts for clip in clips), empty)
    flicker = sum((clip.flicker for clip in clips), np.zeros((num_classes, 2), np.int64))
    outlines = sum((clip.boundary for clip in clips), np.zeros((num_classes, 2)))
    iou, truth = class_iou(counts), counts.sum(1)
    total, present = int(truth.sum()), truth > 0
    boundary = divide(outlines[:, 0], outlines[:, 1])
    sizes = tuple(clips[0].windows) if clips else WINDOWS
    mvc, mvc_correct = (
        {n: _mean_consistency(clips, n, column, vspw_script=vspw_script) for n in sizes}
        for column in (0, 1)
    )
    weighted = (iou[present] * truth[present]).sum()
    return Scores(
        frames=sum(clip.frames for clip in clips),
        labelled_frames=sum(clip.labelled_frames for clip in clips),
        iou=tuple(float(value) for value in iou),
        miou=mean(iou[present] if vspw_script else iou),
        weighted_iou=float(weighted / total) if total else float("nan"),
        pixel_accuracy=float(np.trace(counts) / total) if total else float("nan"),
        mvc=mvc,
        mvc_correct=mvc_correct,
        flicker=tuple(float(value) for value in divide(flicker[:, 0], flicker[:, 1])),
        flicker_rate=float(divide(*flicker.sum(0))),
        boundary=tuple(float(value) for value in boundary),
        boundary_f=mean(boundary),
        tc=mean([clip.tc for clip in clips]),
        labelled=tuple(int(count) for count in truth),
    )

"""Two models over the same frames: how far labels, logits and states drift apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import StateMismatch
from streamseg.evaluation.class_matching import (
    CLASSES_BY_HELP,
    ClassesBy,
    ClassMatch,
    NamedClasses,
    match_classes,
)
from streamseg.evaluation.datasets import Clip
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.evaluation.segmenter import Array, Segmenter
from streamseg.option_fields import option
from streamseg.runtime.bundle.manifest import ClassInfo

_Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Trend = Literal["zero", "dies out", "saturates", "grows", "too short"]

_ZERO = 1e-12
_SHORTEST = 16  # frames below which no trend is named
_DEAD = 0.1  # share of the peak below which an error has died out
_GROWTH = 0.25  # rise over the second half, as a share of its level, that counts as growth


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """How two models are compared.

    Attributes:
        frames: how many; None plays the clip once. With more than the clip has, it is played again
            without a reset, so that a short clip serves for a long run.
        threshold: relative state error that counts as drift.
        classes_by: how the classes of the second are found among those of the first; see
            ``match_classes``.
    """

    frames: int | None = option("Number of frames to process.", default=None, low=1, common=True)
    threshold: float = option("State error that counts as drift.", default=1e-2, low=0)
    classes_by: ClassesBy = option(CLASSES_BY_HELP, default="name")


@dataclass(frozen=True)
class FrameDifference:
    """How far B is from A on one frame.

    ``agreement`` is the share of pixels with equal labels. ``logits`` is the largest absolute
    difference, ``logits_rms`` its root mean square, both None where one side gives no logits.
    ``state`` gives for each state tensor the relative error |b - a| / |a| (Euclidean).
    """

    agreement: float
    logits: float | None
    logits_rms: float | None
    state: Mapping[str, float]

    @property
    def worst_state(self) -> float:
        """The largest of ``state``; 0 without state."""
        return max(self.state.values(), default=0.0)


@dataclass(frozen=True)
class ComparedFrame:
    """A frame kept for pictures: (H, W, 3) uint8 RGB, and both (H, W) label maps in A's classes."""

    index: int
    image: NDArray[np.uint8]
    a: NDArray[np.uint8]
    b: NDArray[np.uint8]

    @property
    def agreement(self) -> float:
        """Share of pixels with equal labels."""
        return float((self.a == self.b).mean())


@dataclass(frozen=True)
class Crossing:
    """The first state tensor past the threshold: at which frame, and by how much."""

    frame: int
    name: str
    error: float


@dataclass(frozen=True)
class Comparison:
    """All frames, in order, and what they show.

    ``examples`` are the first frame, the worst (fewest equal labels, the first of equals) and the
    last, in order, each once; ``classes`` are A's, whose ids their labels have.
    """

    a: str
    b: str
    threshold: float
    frames: tuple[FrameDifference, ...]
    classes_matched: str
    assumed: tuple[Mapping[str, Any], Mapping[str, Any]]
    classes: tuple[ClassInfo, ...] = ()
    examples: tuple[ComparedFrame, ...] = ()

    @property
    def worst_frame(self) -> int:
        """Number of the frame with the fewest equal labels, the first of equals."""
        agreement = [frame.agreement for frame in self.frames]
        return agreement.index(min(agreement))

    @property
    def worst(self) -> ComparedFrame:
        """That frame with its labels."""
        return next(frame for frame in self.examples if frame.index == self.worst_frame)

    @property
    def first_crossing(self) -> Crossing | None:
        """The first frame with an error past the threshold; there, the first tensor in order.

        In the order of the state table a layer comes after those that feed it, so this is where
        the error enters.
        """
        for index, frame in enumerate(self.frames):
            for name, error in frame.state.items():
                if not error <= self.threshold:
                    return Crossing(index, name, error)
        return None

    def series(self, name: str) -> NDArray[np.float64]:
        """Errors of one state tensor over the frames."""
        return np.array([frame.state[name] for frame in self.frames])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state tensors that both have."""
        return tuple(self.frames[0].state) if self.frames else ()

    def trend(self, name: str | None = None) -> Trend:
        """Whether the error of a tensor (or the worst of all) grows, saturates or dies out."""
        if name is not None:
            return classify_trend(self.series(name))
        return classify_trend([frame.worst_state for frame in self.frames])

    def as_json(self) -> dict[str, Any]:
        """Summary and the per-frame values."""
        crossing = self.first_crossing
        agreement = [frame.agreement for frame in self.frames]
        return {
            "a": self.a,
            "b": self.b,
            "frames": len(self.frames),
            "classes_matched": self.classes_matched,
            "assumed": {"a": dict(self.assumed[0]), "b": dict(self.assumed[1])},
            "agreement": {
                "mean": float(np.mean(agreement)),
                "min": min(agreement),
                "worst_frame": self.worst_frame,
                "per_frame": agreement,
            },
            "logits_max": [frame.logits for frame in self.frames],
            "logits_rms": [frame.logits_rms for frame in self.frames],
            "threshold": self.threshold,
            "first_crossing": None
            if crossing is None
            else {"frame": crossing.frame, "state": crossing.name, "error": crossing.error},
            "trend": self.trend(),
            "state": {
                name: {"trend": self.trend(name), "per_frame": self.series(name).tolist()}
                for name in self.state_names
            },
        }


def relative_error(a: Array, b: Array) -> float:
    """|b - a| / |a|; infinite where only b differs from zero or a value is not finite."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    difference, size = float(np.linalg.norm(second - first)), float(np.linalg.norm(first))
    if not math.isfinite(difference) or not math.isfinite(size):
        return math.inf
    if size == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return difference / size


def classify_trend(errors: Sequence[float] | NDArray[np.float64]) -> Trend:
    """Name what an error does over a run.

    ``dies out``: its level in the last quarter is below a tenth of its peak. ``grows``: over the
    second half a robust line (median of pairwise slopes) rises by more than a quarter of the
    level there. ``saturates``: neither. A run under 16 frames is ``too short``, an error of
    exactly nothing ``zero``.
    """
    series = np.asarray(errors, np.float64)
    if len(series) < _SHORTEST:
        return "too short"
    if not np.isfinite(series).all():
        return "grows"
    # Single frames (a cut, a passing car) must not decide: smooth over an eighth of the run.
    width = max(1, len(series) // 8)
    smooth = np.convolve(series, np.ones(width) / width, mode="valid")
    if smooth.max() <= _ZERO:
        return "zero"
    late = float(np.median(series[-len(series) // 4 :]))
    if late < _DEAD * float(smooth.max()):
        return "dies out"
    half = smooth[len(smooth) // 2 :]
    step = max(1, len(half) // 200)
    points = half[::step]
    i, j = np.triu_indices(len(points), 1)
    if not len(i):
        return "saturates"
    rise = float(np.median((points[j] - points[i]) / (j - i))) * (len(points) - 1)
    return "grows" if rise > _GROWTH * float(np.median(half)) else "saturates"


def compare(
    a: Segmenter,
    b: Segmenter,
    clip: Clip,
    options: ComparisonOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> Comparison:
    """Run both over a clip and measure the differences of every frame.

    Args:
        a: the reference.
        b: what is compared with it.
        clip: frames in order.
        options: how many frames, what counts as drift, and how classes are matched.
        progress: called after each frame with the clip's name.

    Raises:
        StateMismatch: tensors of the same name differ in shape.
        DatasetError: the classes differ, or a frame cannot be read, or there is none.
    """
    options = options or ComparisonOptions()
    frames = options.frames
    match = match_classes(_named_classes(b), _named_classes(a), classes_by=options.classes_by)
    a.reset()
    b.reset()
    found: list[FrameDifference] = []
    kept = _Examples()
    while True:
        before = len(found)
        for frame in clip:
            if frames is not None and len(found) >= frames:
                break
            difference, pair = _difference(a, b, match, frame.image)
            kept.add(len(found), frame.image, pair)
            found.append(difference)
            progress(clip.name)
        if frames is None or len(found) >= frames or len(found) == before:
            break
    return Comparison(
        a.name,
        b.name,
        options.threshold,
        tuple(found),
        match.how,
        (a.assumed, b.assumed),
        a.classes,
        kept.frames,
    )


class _Examples:
    """Keeps the first, the worst and the last frame of a comparison."""

    def __init__(self) -> None:
        self._first: ComparedFrame | None = None
        self._worst: ComparedFrame | None = None
        self._last: ComparedFrame | None = None

    def add(self, index: int, image: NDArray[np.uint8], pair: _Pair) -> None:
        frame = ComparedFrame(index, image, pair[0], pair[1])
        self._first = self._first or frame
        if self._worst is None or frame.agreement < self._worst.agreement:
            self._worst = frame
        self._last = frame

    @property
    def frames(self) -> tuple[ComparedFrame, ...]:
        kept = {f.index: f for f in (self._first, self._worst, self._last) if f is not None}
        return tuple(kept[index] for index in sorted(kept))


def _named_classes(segmenter: Segmenter) -> NamedClasses:
    return NamedClasses(segmenter.name, tuple(entry.name for entry in segmenter.classes))


def _difference(
    a: Segmenter, b: Segmenter, match: ClassMatch, image: NDArray[np.uint8]
) -> tuple[FrameDifference, _Pair]:
    first, second = a.step(image), b.step(image)
    pair = first.labels.copy(), match.translate(second.labels).copy()
    agreement = float((pair[0] == pair[1]).mean())
    largest = rms = None
    if first.logits is not None and second.logits is not None:
        if first.logits.shape != second.logits.shape:
            raise StateMismatch(
                f"logits of {a.name} are {first.logits.shape}, of {b.name} {second.logits.shape}: "
                "compare models of one size and class count"
            )
        difference = match.reorder(second.logits) - first.logits
        largest = float(np.abs(difference).max())
        rms = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
    return FrameDifference(agreement, largest, rms, _state_errors(a, b)), pair


def _state_errors(a: Segmenter, b: Segmenter) -> dict[str, float]:
    mine, other = a.state(), b.state()
    errors = {}
    for name, tensor in mine.items():
        if name not in other:
            continue
        if tensor.shape != other[name].shape:
            raise StateMismatch(
                f"state '{name}' is {list(tensor.shape)} in {a.name} and "
                f"{list(other[name].shape)} in {b.name}: compare models of one size and window"
            )
        errors[name] = relative_error(tensor, other[name])
    return errors

"""Run a model over a labelled dataset, clip by clip, and score it."""

from __future__ import annotations

import heapq
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.class_matching import (
    ClassesBy,
    ClassMatch,
    NamedClasses,
    match_classes,
)
from streamseg.evaluation.datasets import Dataset, require_labelled_pixels
from streamseg.evaluation.metrics import FrameScore, Scores, SegmentationMetrics
from streamseg.evaluation.percentages import undefined_figures
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.evaluation.segmenter import Segmenter
from streamseg.files import whole_file

WORST_FRAMES = 6


@dataclass(frozen=True)
class ScoredFrame:
    """One labelled frame's place and score."""

    clip: str
    index: int
    name: str
    score: FrameScore


@dataclass(frozen=True)
class WorstFrame:
    """A frame kept for the sheet of worst frames, with its label and prediction (uint8 maps)."""

    at: ScoredFrame
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split.

    ``classes_matched`` says how the model's classes were found in the dataset, ``notes`` what had
    to be guessed of its labels, ``assumed`` which settings of the network its checkpoint does not
    give. ``fps`` counts the model's steps only,
    without reading files. ``worst`` is sorted, lowest mIoU first.
    """

    subject: str
    dataset: str
    split: str
    stateless: bool
    class_names: tuple[str, ...]
    classes_matched: str
    notes: tuple[str, ...]
    assumed: Mapping[str, Any]
    scores: Scores
    fps: float
    timeline: tuple[ScoredFrame, ...]
    worst: tuple[WorstFrame, ...]

    @property
    def undefined(self) -> dict[str, str]:
        """The figures that nothing defines, by their names in JSON, and why."""
        return undefined_figures(self.scores, self.class_names)

    def as_json(self) -> dict[str, Any]:
        """The values under fixed keys: fractions, null where ``undefined`` says why."""
        scores = self.scores
        content = {
            "miou": scores.miou,
            "weighted_iou": scores.weighted_iou,
            "pixel_accuracy": scores.pixel_accuracy,
            **{f"mvc{n}": value for n, value in scores.mvc.items()},
            **{f"mvc{n}_correct": value for n, value in scores.mvc_correct.items()},
            "per_class": dict(zip(self.class_names, scores.iou, strict=True)),
            "fps": self.fps,
            "frames": scores.frames,
            "labelled_frames": scores.labelled_frames,
            "subject": self.subject,
            "dataset": self.dataset,
            "split": self.split,
            "stateless": self.stateless,
            "undefined": self.undefined,
            "classes_matched": self.classes_matched,
            "notes": list(self.notes),
            "assumed": dict(self.assumed),
        }
        cleaned = _without_nan(content)
        assert isinstance(cleaned, dict)
        return cleaned


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON.

    Raises:
        DatasetError: the file cannot be written.
    """
    with whole_file(path, DatasetError) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclass
class _Worst:
    limit: int
    heap: list[tuple[float, int, WorstFrame]] = field(default_factory=list)
    seen: int = 0

    def add(self, frame: WorstFrame) -> None:
        if math.isnan(frame.at.score.miou):
            return
        # Negated, so that the heap's smallest is the best of the worst and is dropped first.
        self.seen += 1
        entry = (-frame.at.score.miou, -self.seen, frame)
        if len(self.heap) < self.limit:
            heapq.heappush(self.heap, entry)
        else:
            heapq.heappushpop(self.heap, entry)

    def sorted(self) -> tuple[WorstFrame, ...]:
        return tuple(frame for _, _, frame in sorted(self.heap, key=lambda e: (-e[0], -e[1])))


def match_dataset(
    segmenter: Segmenter, dataset: Dataset, *, classes_by: ClassesBy = "name"
) -> ClassMatch:
    """Which class of the dataset each class of the model is.

    Raises:
        DatasetError: the dataset has no labels, or other classes than the model.
    """
    if not dataset.classes:
        raise DatasetError(f"{dataset.name} has no labels: eval needs one of the labelled datasets")
    return match_classes(
        NamedClasses(segmenter.name, tuple(entry.name for entry in segmenter.classes)),
        NamedClasses(dataset.name, tuple(entry.name for entry in dataset.classes)),
        classes_by=classes_by,
        dataset="cityscapes" if dataset.name == "synthetic" else dataset.name,
    )


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    stateless: bool = False,
    classes_by: ClassesBy = "name",
    vspw_script: bool = False,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score a model on every labelled frame.

    The state starts from zero at each clip and runs through it, unlabelled frames included.

    Args:
        segmenter: the model.
        dataset: with the classes of the model, in any order.
        stateless: reset the state before every frame.
        classes_by: how classes are matched; see ``match_classes``.
        vspw_script: see ``SegmentationMetrics``.
        progress: called after each frame with the clip's name.

    Raises:
        DatasetError: the classes do not fit, no pixel has a label, or a file is damaged.
    """
    match = match_dataset(segmenter, dataset, classes_by=classes_by)
    require_labelled_pixels(dataset)
    metrics = SegmentationMetrics(len(dataset.classes), vspw_script=vspw_script)
    timeline: list[ScoredFrame] = []
    worst = _Worst(WORST_FRAMES)
    seconds = 0.0
    for clip in dataset.clips:
        metrics.start_clip()
        segmenter.reset()
        for index, frame in enumerate(clip):
            if stateless:
                segmenter.reset()
            start = time.perf_counter()
            output = segmenter.step(frame.image)
            seconds += time.perf_counter() - start
            size = frame.image.shape[:2] if frame.label is None else frame.label.shape
            prediction = match.translate(output.labels_at((size[0], size[1])))
            score = metrics.add(prediction, frame.label)
            if score is not None and frame.label is not None:
                at = ScoredFrame(clip.name, index, frame.name, score)
                timeline.append(at)
                worst.add(WorstFrame(at, frame.image, frame.label, prediction.copy()))
            progress(clip.name)
    scores = metrics.scores()
    if math.isnan(scores.pixel_accuracy):
        raise DatasetError(f"{dataset.name} {dataset.split}: no frame has a labelled pixel")
    return Evaluation(
        subject=segmenter.name,
        dataset=dataset.name,
        split=dataset.split,
        stateless=stateless,
        class_names=tuple(entry.name for entry in dataset.classes),
        classes_matched=match.how,
        notes=dataset.notes,
        assumed=dict(segmenter.assumed),
        scores=scores,
        fps=scores.frames / seconds,
        timeline=tuple(timeline),
        worst=worst.sorted(),
    )

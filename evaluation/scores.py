"""Run a model over a labelled dataset, clip by clip, and score it."""

from __future__ import annotations

import heapq
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
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
from streamseg.evaluation.datasets import (
    Clip,
    Dataset,
    LabelledFrame,
    require_labelled_pixels,
)
from streamseg.evaluation.datasets.label_classes import CITYSCAPES
from streamseg.evaluation.metrics import (
    ClipScores,
    FrameScore,
    MetricOptions,
    Scores,
    SegmentationMetrics,
)
from streamseg.evaluation.percentages import (
    explain_absent,
    explain_undefined,
    undefined_figures,
)
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.evaluation.resampling import Interval, clip_values, confidence_intervals
from streamseg.evaluation.segmenter import Output, Segmenter
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
    give. ``fps`` counts scored frames over the time of the model's steps only, without reading
    files; ``steps`` is how many steps those took. ``history`` is how many frames each output had
    seen, None: all since the clip began. ``worst`` is sorted, lowest mIoU first. ``clips`` holds
    what was counted in each clip, and ``intervals`` the 95 % intervals over clips by bootstrap.
    """

    subject: str
    dataset: str
    split: str
    history: int | None
    class_names: tuple[str, ...]
    classes_matched: str
    notes: tuple[str, ...]
    assumed: Mapping[str, Any]
    scores: Scores
    fps: float
    steps: int
    timeline: tuple[ScoredFrame, ...]
    worst: tuple[WorstFrame, ...]
    clips: tuple[ClipScores, ...]
    options: MetricOptions
    intervals: Mapping[str, Interval]

    @property
    def stateless(self) -> bool:
        """Whether each output saw its own frame alone."""
        return self.history == 1

    @property
    def undefined(self) -> dict[str, str]:
        """The figures that nothing defines, by their names in JSON, and why."""
        return undefined_figures(self.scores, self.class_names)

    @property
    def explanations(self) -> list[str]:
        """One sentence for each reason why figures of tables are missing."""
        vspw_script = self.options.vspw_script
        return [
            *explain_undefined(self.undefined),
            *explain_absent(self.scores, self.class_names, vspw_script=vspw_script),
        ]

    def as_json(self) -> dict[str, Any]:
        """The values under fixed keys: fractions, null where ``undefined`` says why."""
        scores = self.scores
        content = {
            "miou": scores.miou,
            "weighted_iou": scores.weighted_iou,
            "pixel_accuracy": scores.pixel_accuracy,
            **{f"mvc{n}": value for n, value in scores.mvc.items()},
            **{f"mvc{n}_correct": value for n, value in scores.mvc_correct.items()},
            "flicker_rate": scores.flicker_rate,
            **({"boundary_f": scores.boundary_f} if self.options.boundary else {}),
            **({"tc": scores.tc, "flow": self.options.flow} if self.options.flow else {}),
            "per_class": self._by_class(scores.iou),
            "flicker_per_class": self._by_class(scores.flicker),
            **(
                {"boundary_per_class": self._by_class(scores.boundary)}
                if self.options.boundary
                else {}
            ),
            "intervals": {name: [i.low, i.high] for name, i in self.intervals.items()},
            "clips": {
                clip.name: {**clip_values(clip), "frames": clip.frames} for clip in self.clips
            },
            "fps": self.fps,
            "steps": self.steps,
            "history": "all" if self.history is None else self.history,
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

    def _by_class(self, values: tuple[float, ...]) -> dict[str, float]:
        return dict(zip(self.class_names, values, strict=True))


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


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How a model is scored on a dataset.

    Attributes:
        history: frames that each output sees: the state is reset, and the frame and the
            ``history - 1`` before it are stepped through. 1 resets before every frame, None lets
            the state run on.
        skip: first frames of each clip that are not scored.
        classes_by: how classes are matched; see ``match_classes``.
        metrics: what is measured.
    """

    history: int | None = None
    skip: int = 0
    classes_by: ClassesBy = "name"
    metrics: MetricOptions = field(default_factory=MetricOptions)


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
        dataset="cityscapes" if dataset.classes == CITYSCAPES else dataset.name,
    )


def _outputs(
    segmenter: Segmenter, clip: Clip, options: EvaluationOptions
) -> Iterator[tuple[int, LabelledFrame, Output, float, int]]:
    """Each frame with its index, the output for it, and the seconds and steps that it took.

    The first ``options.skip`` are left out.
    """
    history, skip = options.history, options.skip
    segmenter.reset()
    recent: deque[NDArray[np.uint8]] = deque(maxlen=history)
    for index, frame in enumerate(clip):
        images = [frame.image]
        start = time.perf_counter()
        if history is not None:
            recent.append(frame.image)
            if index < skip:
                continue  # nothing that is scored depends on a step of it
            images = list(recent)
            segmenter.reset()
        for image in images:
            output = segmenter.step(image)
        if index >= skip:
            yield index, frame, output, time.perf_counter() - start, len(images)


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    options: EvaluationOptions | None = None,
    *,
    prepare: Callable[[Segmenter, Clip], None] | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score a model on every labelled frame.

    The state starts from zero at each clip and runs through it, unlabelled frames included.

    Args:
        segmenter: the model.
        dataset: with the classes of the model, in any order.
        options: history, matching of classes and metrics.
        prepare: called before each clip, to set what comes from outside the video.
        progress: called after each frame with the clip's name.

    Raises:
        DatasetError: the classes do not fit, no pixel has a label, or a file is damaged.
    """
    options = options or EvaluationOptions()
    match = match_dataset(segmenter, dataset, classes_by=options.classes_by)
    require_labelled_pixels(dataset)
    metrics = SegmentationMetrics(len(dataset.classes), options.metrics)
    timeline: list[ScoredFrame] = []
    worst = _Worst(WORST_FRAMES)
    seconds, steps = 0.0, 0
    for clip in dataset.clips:
        metrics.start_clip(clip.name)
        if prepare is not None:
            prepare(segmenter, clip)
        for index, frame, output, spent, taken in _outputs(segmenter, clip, options):
            progress(clip.name)
            seconds, steps = seconds + spent, steps + taken
            size = frame.image.shape[:2] if frame.label is None else frame.label.shape
            prediction = match.translate(output.labels_at((size[0], size[1])))
            score = metrics.add(prediction, frame.label, frame.image)
            if score is not None and frame.label is not None:
                at = ScoredFrame(clip.name, index, frame.name, score)
                timeline.append(at)
                worst.add(WorstFrame(at, frame.image, frame.label, prediction.copy()))
    scores, clips = metrics.scores(), metrics.clips()
    if math.isnan(scores.pixel_accuracy):
        skipped = f" after the first {options.skip} of each clip" if options.skip else ""
        raise DatasetError(
            f"{dataset.name} {dataset.split}: no frame{skipped} has a labelled pixel"
        )
    return Evaluation(
        subject=segmenter.name,
        dataset=dataset.name,
        split=dataset.split,
        history=options.history,
        class_names=tuple(entry.name for entry in dataset.classes),
        classes_matched=match.how,
        notes=dataset.notes,
        assumed=dict(segmenter.assumed),
        scores=scores,
        fps=scores.frames / seconds,
        steps=steps,
        timeline=tuple(timeline),
        worst=worst.sorted(),
        clips=clips,
        options=options.metrics,
        intervals=confidence_intervals(clips, vspw_script=options.metrics.vspw_script),
    )

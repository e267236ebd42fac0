"""Accuracy against how many frames a network has seen: one evaluation for each length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import Dataset
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.evaluation.scores import Evaluation, EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import Segmenter

ALL = "all"


def parse_lengths(text: str) -> tuple[int | None, ...]:
    """``"1,2,4,all"`` to ``(1, 2, 4, None)``, ascending.

    Raises:
        DatasetError: anything but numbers from 1 and ``all``.
    """
    found: set[int | None] = set()
    for part in (entry.strip() for entry in text.split(",")):
        if part != ALL and not (part.isdecimal() and int(part) >= 1):
            raise DatasetError(
                f"history {text!r}: got {part!r}, expected numbers from 1 and 'all', such as "
                "1,2,4,8,16,32,all"
            )
        found.add(None if part == ALL else int(part))
    return tuple(sorted(found, key=lambda n: (n is None, n or 0)))


def name_length(history: int | None) -> str:
    """A length as it is written: a number, or ``all``."""
    return ALL if history is None else str(history)


@dataclass(frozen=True)
class HistoryStudy:
    """One evaluation for each length, all over the same frames.

    Attributes:
        skipped: first frames of each clip that are not scored, so that every length is full.
        left_out: names of the clips that are too short.
        evaluations: by length, ascending; the last may have all frames.
    """

    skipped: int
    left_out: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values under fixed keys."""
        return {
            "skipped": self.skipped,
            "left_out": list(self.left_out),
            "lengths": [evaluation.as_json() for evaluation in self.evaluations],
        }


def study_history(
    segmenter: Segmenter,
    dataset: Dataset,
    lengths: Sequence[int | None],
    options: EvaluationOptions | None = None,
    *,
    watch: Callable[[str], Progress] = lambda _: no_progress,
) -> HistoryStudy:
    """Score a network with the state reset so that each output sees so many frames.

    As in the publication, the first frames of each clip, as many as the longest length, are not
    scored, and clips that have no more are left out: every length is scored over the same frames.
    A length of n costs n steps a frame; ``None`` (all frames since the clip began) costs one.

    Args:
        segmenter: the model.
        dataset: clips of known length.
        lengths: see ``parse_lengths``.
        options: matching of classes and metrics; ``history`` and ``skip`` are set by the lengths.
        watch: gives the progress of each length, called with its name.

    Raises:
        DatasetError: no clip is long enough, or see ``evaluate``.

    Source: TV3S (CVPR 2025), table 6.
    """
    longest = max((n for n in lengths if n is not None), default=0)
    skipped = longest if longest > 1 else 0
    kept = [clip for clip in dataset.clips if (clip.frame_count or 0) > skipped]
    if not kept:
        raise DatasetError(
            f"{dataset.name} {dataset.split} has no clip of more than {skipped} frames, which a "
            f"history of {longest} needs"
        )
    chosen = replace(dataset, clips=kept)
    names = {clip.name for clip in kept}
    return HistoryStudy(
        skipped=skipped,
        left_out=tuple(clip.name for clip in dataset.clips if clip.name not in names),
        evaluations=tuple(
            evaluate(
                segmenter,
                chosen,
                replace(options or EvaluationOptions(), history=length, skip=skipped),
                progress=watch(name_length(length)),
            )
            for length in lengths
        ),
    )

"""Accuracy and cost of a network against its settings: offsets, key interval, window and more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from streamseg.errors import CheckpointError
from streamseg.evaluation.datasets import Dataset
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.evaluation.scores import Evaluation, EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.torch_segmenter import CheckpointSegmenter
from streamseg.export.catalogue import Cost, count_cost
from streamseg.export.factory import load_model

Variant = Mapping[str, str]


def parse_variant(text: str) -> dict[str, str]:
    """``"window=10 shift=5"`` to a dictionary.

    Raises:
        CheckpointError: a part is not NAME=VALUE.
    """
    found: dict[str, str] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise CheckpointError(
                f"variant {text!r}: got {part!r}, expected NAME=VALUE, several separated by "
                "blanks, such as 'window=10 shift=5'"
            )
        found[name] = value
    return found


def name_variant(variant: Variant) -> str:
    """A variant as it is written; ``as trained`` for none."""
    return " ".join(f"{name}={value}" for name, value in variant.items()) or "as trained"


@dataclass(frozen=True)
class SweepRow:
    """One variant: what it changes, what it scores, and what it costs at the size."""

    variant: Variant
    evaluation: Evaluation
    cost: Cost

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "variant": dict(self.variant),
            "frame_gmacs": self.cost.frame_gmacs,
            "state_bytes": self.cost.state_bytes,
            "evaluation": self.evaluation.as_json(),
        }


def sweep(
    path: Path,
    dataset: Dataset,
    variants: Sequence[Variant],
    options: SegmenterOptions,
    *,
    scoring: EvaluationOptions | None = None,
    watch: Callable[[str], Progress] = lambda _: no_progress,
) -> list[SweepRow]:
    """Score a checkpoint under other settings than those that it was trained with.

    The weights stay: a publication's ablation trains each variant, so its figures need not agree.

    Args:
        path: a checkpoint.
        dataset: labelled clips.
        variants: settings of each; those of ``options`` hold for all.
        options: with the frame size.
        scoring: history, matching of classes and metrics.
        watch: gives the progress of each variant, called with its name.

    Raises:
        CheckpointError: a setting is unknown or out of range, or no size is given.
        DatasetError: see ``evaluate``.
    """
    if options.size is None:
        raise CheckpointError(f"{path} is a checkpoint: add --size HxW")
    size, rows = options.size, []
    for variant in variants:
        settings = {**options.settings, **variant}
        with CheckpointSegmenter(
            path, replace(options, settings=settings, override=True), size
        ) as segmenter:
            evaluation = evaluate(
                segmenter,
                dataset,
                scoring,
                progress=watch(name_variant(variant)),
            )
        with torch.no_grad():
            cost = count_cost(load_model(path, settings=settings, override=True), size)
        rows.append(SweepRow(variant, evaluation, cost))
    return rows

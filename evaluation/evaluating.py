"""Score a bundle or a checkpoint in one call; at the front door as ``streamseg.evaluate``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamseg.evaluation.class_matching import ClassesBy
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.scores import Evaluation, EvaluationOptions, evaluate, match_dataset
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter


def evaluate_subject(
    subject: str | os.PathLike[str],
    dataset: str,
    *,
    split: str = "val",
    history: int | None = None,
    classes_by: ClassesBy = "name",
    size: tuple[int, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    backend: str = "auto",
) -> Evaluation:
    """Score a bundle or a checkpoint on a labelled dataset, as ``streamseg eval`` does.

    Args:
        subject: a bundle, or what ``load_model`` takes.
        dataset: ``NAME:ROOT``, such as ``cityscapes:/data/cityscapes``; see ``open_dataset``.
        split: ``train``, ``val`` or ``test``.
        history: frames that each output sees; 1 resets the state before every frame, None lets it
            run on.
        classes_by: ``name``, or ``position`` where names differ and the order is the same.
        size: (H, W) of a checkpoint.
        settings: of a checkpoint; see ``load_checkpoint``.
        backend: of a bundle; see ``streamseg.open``.
    Raises:
        DatasetError: the tree is missing or incomplete, or its classes are not the model's.
        BundleError, CheckpointError: the subject cannot be opened.
    """
    opened = open_dataset(dataset, split)
    options = SegmenterOptions(backend=backend, size=size, settings=settings or {})
    with open_segmenter(Path(subject), options) as segmenter:
        match_dataset(segmenter, opened, classes_by=classes_by)
        return evaluate(
            segmenter, opened, EvaluationOptions(history=history, classes_by=classes_by)
        )

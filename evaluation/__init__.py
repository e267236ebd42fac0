"""Datasets, metrics, scores and drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.evaluation.datasets import Dataset, open_dataset
    from streamseg.evaluation.drift import Comparison, compare
    from streamseg.evaluation.evaluating import evaluate_subject
    from streamseg.evaluation.metrics import Scores, SegmentationMetrics
    from streamseg.evaluation.scores import Evaluation, evaluate
    from streamseg.evaluation.segmenter import Segmenter, SegmenterOptions
    from streamseg.evaluation.subjects import open_segmenter

__all__ = [
    "Comparison",
    "Dataset",
    "Evaluation",
    "Scores",
    "SegmentationMetrics",
    "Segmenter",
    "SegmenterOptions",
    "compare",
    "evaluate",
    "evaluate_subject",
    "open_dataset",
    "open_segmenter",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Comparison": "evaluation.drift",
        "Dataset": "evaluation.datasets",
        "Evaluation": "evaluation.scores",
        "Scores": "evaluation.metrics",
        "SegmentationMetrics": "evaluation.metrics",
        "Segmenter": "evaluation.segmenter",
        "SegmenterOptions": "evaluation.segmenter",
        "compare": "evaluation.drift",
        "evaluate": "evaluation.scores",
        "evaluate_subject": "evaluation.evaluating",
        "open_dataset": "evaluation.datasets",
        "open_segmenter": "evaluation.subjects",
    },
)

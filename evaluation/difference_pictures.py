"""Frames of a comparison as pictures: the frame, both label maps, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamseg.evaluation.drift import ComparedFrame, Comparison
from streamseg.evaluation.plots import label_cells
from streamseg.runtime.bundle.manifest import ClassInfo

Image = NDArray[np.uint8]
_DIFFERENT, _EQUAL = (220, 30, 30), (230, 230, 230)


def draw_difference(frame: ComparedFrame, comparison: Comparison) -> Image:
    """The frame, A's labels, B's labels and the difference in a row: (h, w, 3) uint8 RGB."""
    differs = (frame.a != frame.b)[..., None]
    difference = np.where(differs, np.array(_DIFFERENT), np.array(_EQUAL)).astype(np.uint8)
    return label_cells(
        (
            (frame.image, f"frame {frame.index}"),
            (colorize_labels(frame.a, comparison.classes), f"A: {comparison.a}"),
            (colorize_labels(frame.b, comparison.classes), f"B: {comparison.b}"),
            (difference, f"differs: {1 - frame.agreement:.2%} of pixels"),
        ),
        frame.a.shape[0] / frame.a.shape[1],
    )


def colorize_labels(labels: Image, classes: Sequence[ClassInfo]) -> Image:
    """(H, W) uint8 class ids to (H, W, 3) uint8 RGB; no class is black."""
    palette = np.zeros((256, 3), np.uint8)
    for entry in classes:
        palette[entry.id] = entry.color
    return palette[labels]


def shown_classes(comparison: Comparison) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of the classes that occur in the kept frames."""
    found: set[int] = set()
    for frame in comparison.examples:
        found |= set(np.unique(frame.a).tolist()) | set(np.unique(frame.b).tolist())
    return [(entry.name, entry.color) for entry in comparison.classes if entry.id in found]

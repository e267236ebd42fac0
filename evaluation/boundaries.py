"""Boundary F-score (BF): how well the outlines of classes are placed."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.evaluation.datasets.label_classes import VOID

TOLERANCE = 0.0075
"""Tolerance as a share of the image's diagonal."""

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def outline(mask: Mask) -> Mask:
    """Pixels of a mask that touch its outside on one of four sides, other than the border's."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(
        mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=(1.0,)
    )
    found: Mask = mask & (inner == 0)
    return found


def _near(points: Mask, others: Mask, tolerance: float) -> float:
    """Share of ``points`` closer than ``tolerance`` to one of ``others``."""
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances of pixels are whole numbers, so rounding removes the error of float32.
    squared = np.rint(distance[points].astype(np.float64) ** 2)
    return float((squared < tolerance**2).mean())


def boundary_score(predicted: Mask, true: Mask, tolerance: float) -> float:
    """F1 of two masks' outlines, NaN where neither has one.

    Precision is the share of predicted outline pixels with a true one closer than ``tolerance``
    pixels, recall the share of true ones with a predicted one.
    """
    guess, truth = outline(predicted), outline(true)
    if not guess.any() and not truth.any():
        return math.nan
    if not guess.any() or not truth.any():
        return 0.0
    precision, recall = _near(guess, truth, tolerance), _near(truth, guess, tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_scores(prediction: Labels, label: Labels, num_classes: int) -> NDArray[np.float64]:
    """BF of each class in one frame.

    Void pixels of the label count as void in the prediction too. The tolerance is ``TOLERANCE`` of
    the diagonal.

    Args:
        prediction: (H, W) uint8.
        label: (H, W) uint8, 255 = void.
        num_classes: K.

    Returns:
        (K,) float64, NaN where neither map has an outline of the class.

    Source: Csurka et al., What is a good evaluation measure for semantic segmentation? (BMVC 2013).
    """
    guess = np.where(label == VOID, VOID, prediction)
    tolerance = TOLERANCE * math.hypot(*label.shape)
    scores = np.full(num_classes, np.nan)
    for index in np.union1d(guess, label):
        if index < num_classes:
            scores[index] = boundary_score(guess == index, label == index, tolerance)
    return scores

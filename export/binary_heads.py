"""Heads of one channel, a sigmoid: imported as the same network with two classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.palettes import read_list
from streamseg.export.settings import Setting, read_numbers

# Every linear map to classes; "added" ones are summed with another and take no threshold.
_CLASSIFIER = re.compile(
    r"decode_head\.(linear_pred2?|conv_seg|deco\d\.smalldecoder\.1|(?P<added>linear_pred3))"
    r"\.(?P<leaf>weight|bias)"
)
CLASSES = ("background", "foreground")


def _read_threshold(value: Any) -> float:
    (threshold,) = read_numbers(value, 1)
    if not 0 < threshold < 1:
        raise ValueError("a probability")
    return threshold


THRESHOLD = Setting(
    "threshold",
    "probability from which a pixel is foreground",
    "more than 0, less than 1",
    _read_threshold,
    lambda _known: 0.5,
)


def has_one_channel(weights: Mapping[str, Tensor]) -> bool:
    """Whether all classifiers of a checkpoint give a single channel."""
    rows = [len(value) for key, value in weights.items() if _CLASSIFIER.fullmatch(key)]
    return bool(rows) and set(rows) == {1}


def as_two_classes(weights: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """A checkpoint whose classifiers give background and foreground.

    The background's logit is the threshold's, so that a pixel is foreground exactly where its
    sigmoid is above the threshold; at 0.5 the softmax of both equals the sigmoid.
    """
    background = math.log(threshold / (1 - threshold))
    found = dict(weights)
    for key, value in weights.items():
        match = _CLASSIFIER.fullmatch(key)
        if match is None:
            continue
        constant = background if match["leaf"] == "bias" and match["added"] is None else 0.0
        found[key] = torch.cat([torch.full_like(value, constant), value])
    return found


def binary_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and palette for two classes, from those of one or two."""
    result = dict(meta)
    for name, other in (("CLASSES", CLASSES[0]), ("PALETTE", [0, 0, 0])):
        key = name if name in meta else name.lower()
        listed = read_list(meta, name)
        if listed is not None and len(listed) == 1:
            result[key] = [other, listed[0]]
    if read_list(meta, "CLASSES") is None:
        result["CLASSES"] = list(CLASSES)
    return result


def require_classes(count: int, family: str) -> None:
    """Raise CheckpointError for a network whose labels would all be 0."""
    if count < 2:
        raise CheckpointError(
            f"the {family} network has {count} class, so that every label would be 0; expected 2 "
            "or more. Heads of one channel (a sigmoid) are known for SegFormer, TV3S, CFFM, CFFM++ "
            "and MRCFA"
        )

"""Ids of segments from masks and classes of queries, as transformers' post-processing finds them.

An id is the number of a query. Where queries travel through time, so do ids.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from streamseg.export.step import Size, upsample

KINDS = ("none", "instance", "panoptic")
NONE = 255
# transformers' defaults.
INSTANCE_SCORE = 0.5
PANOPTIC_SCORE = 0.8
MASK_PROBABILITY = 0.5
LEAST_SHARE = 0.8
# Elements of one strip of full-size masks.
STRIP_ELEMENTS = 8 << 20


def find_segments(
    masks: Tensor, classes: Tensor, size: Size, *, kind: str
) -> tuple[Tensor, Tensor]:
    """The segment of every pixel, and the class of every segment.

    Args:
        masks: logits ``[1, Q, h, w]``, at most 255 queries.
        classes: probabilities ``[1, Q, K + 1]``, "no object" last.
        size: of the frame.
        kind: ``instance`` or ``panoptic``.
    Returns:
        Query of every pixel, uint8 ``[1, H, W]``, and class of every query, uint8 ``[1, Q]``; 255
        where there is none.
    Source: transformers' ``post_process_instance_segmentation`` and
        ``post_process_panoptic_segmentation``, without fused classes.
    """
    find = _find_instances if kind == "instance" else _find_panoptic
    ids, named, kept = find(masks, classes, size)
    labels = torch.where(kept, named, NONE).to(torch.uint8)
    return ids.to(torch.uint8)[None], labels[None]


def _strips(masks: Tensor, size: Size) -> Iterator[Tensor]:
    """The masks at full size, ``[Q, rows, W]`` from top to bottom."""
    _, queries, rows, _ = masks.shape
    if size[0] % rows:  # strips would not meet: all at once
        yield upsample(masks, size)[0]
        return
    by = size[0] // rows
    step = max(4, STRIP_ELEMENTS // (queries * by * size[1]))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        # A neighbouring row on either side, so that the strips are the whole map's.
        low, high = max(first - 1, 0), min(last + 1, rows)
        wide = upsample(masks[:, :, low:high], ((high - low) * by, size[1]))
        yield wide[0, :, (first - low) * by : (last - low) * by]


def _find_instances(masks: Tensor, classes: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Masks above zero of sure queries; of those that overlap, the last."""
    sure, named = classes[0, :, :-1].max(-1)
    inside = torch.zeros_like(sure)
    total = torch.zeros_like(sure)
    for strip in _strips(masks, size):
        above = (strip > 0).to(strip.dtype)
        inside = inside + above.sum((1, 2))
        total = total + (strip.sigmoid() * above).sum((1, 2))
    kept = (inside > 0) & (sure * total / (inside + 1e-6) >= INSTANCE_SCORE)
    number = torch.arange(len(sure), dtype=torch.int32, device=sure.device)[:, None, None]
    ids = [
        torch.where((strip > 0) & kept[:, None, None], number, -1).amax(0)
        for strip in _strips(masks, size)
    ]
    found = torch.cat(ids)
    return torch.where(found < 0, NONE, found), named, kept


def _find_panoptic(masks: Tensor, classes: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Every pixel goes to its best query, if that query keeps most of its mask."""
    sure, named = classes[0].max(-1)
    kept = (named != classes.shape[2] - 1) & (sure > PANOPTIC_SCORE)
    weight = torch.where(kept, sure, -1.0)[:, None, None]
    number = torch.arange(len(sure), device=sure.device)[:, None, None]
    won = torch.zeros_like(sure)
    own = torch.zeros_like(sure)
    both = torch.zeros_like(sure)
    winners, inside = [], []
    for strip in _strips(masks, size):
        probability = strip.sigmoid()
        winner = (weight * probability).argmax(0)
        mine = winner[None] == number
        above = probability >= MASK_PROBABILITY
        won = won + mine.to(won.dtype).sum((1, 2))
        own = own + above.to(won.dtype).sum((1, 2))
        both = both + (mine & above).to(won.dtype).sum((1, 2))
        winners.append(winner)
        inside.append((mine & above).any(0))
    kept = kept & (both > 0) & (won > LEAST_SHARE * own)
    winner = torch.cat(winners)
    shown = torch.cat(inside) & kept[winner]
    return torch.where(shown, winner, NONE), named, kept

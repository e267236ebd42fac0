"""Mask2Former's losses: queries are matched to a frame's classes, then class and mask compared.

Source: Mask2Former (CVPR 2022), sections 3.3 and 4.1; DETR (ECCV 2020), section 3.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.training.loss import LossParts

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
NO_OBJECT_WEIGHT = 0.1
POINTS = 112 * 112
OVERSAMPLED = 3
UNCERTAIN_SHARE = 0.75


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Values of ``[n, h, w]`` at points ``[n, P, 2]`` (x, y from 0 to 1): bilinear, ``[n, P]``."""
    grid = 2 * points[:, :, None] - 1
    found = F.grid_sample(maps[:, None], grid, align_corners=False)
    return found[:, 0, :, 0]


def pair_costs(logits: Tensor, masks: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Cost of every query for every target.

    Args:
        logits: of classes, ``[Q, K + 1]``, the last is "no object".
        masks: logits at points, ``[Q, P]``.
        classes: of the targets, int64 ``[N]``.
        targets: 0 or 1 at the points, ``[N, P]``.

    Returns:
        ``[Q, N]``.
    """
    count = masks.shape[1]
    of_class = -logits.softmax(-1)[:, classes]
    positive, negative = F.softplus(-masks), F.softplus(masks)
    of_mask = (positive @ targets.T + negative @ (1 - targets).T) / count
    shares = masks.sigmoid()
    dice = 1 - (2 * shares @ targets.T + 1) / (shares.sum(1)[:, None] + targets.sum(1) + 1)
    return CLASS_WEIGHT * of_class + MASK_WEIGHT * of_mask + DICE_WEIGHT * dice


@torch.no_grad()
def match_queries(
    logits: Tensor, masks: Tensor, classes: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The cheapest assignment of targets to distinct queries, by random points.

    Args:
        logits: ``[Q, K + 1]``.
        masks: logits ``[Q, h, w]``.
        classes: ``[N]``.
        targets: ``[N, H, W]``, 0 or 1.

    Returns:
        Query and target of each pair.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    points = torch.rand(1, POINTS, 2, device=masks.device)
    costs = pair_costs(
        logits,
        sample_points(masks, points.expand(len(masks), -1, -1)),
        classes,
        sample_points(targets, points.expand(len(targets), -1, -1)),
    )
    queries, order = linear_sum_assignment(costs.cpu().numpy())
    device = masks.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(order, device=device)


@torch.no_grad()
def uncertain_points(masks: Tensor) -> Tensor:
    """Points ``[n, P, 2]`` to compare logits ``[n, h, w]`` at.

    Three quarters are those nearest to 0 of thrice as many drawn, the others lie anywhere.
    """
    count = len(masks)
    drawn = torch.rand(count, POINTS * OVERSAMPLED, 2, device=masks.device)
    doubt = -sample_points(masks, drawn).abs()
    kept = int(UNCERTAIN_SHARE * POINTS)
    chosen = doubt.topk(kept, dim=1).indices
    sharp = drawn.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    return torch.cat([sharp, torch.rand(count, POINTS - kept, 2, device=masks.device)], dim=1)


def split_classes(labels: Tensor, *, ignore_index: int) -> tuple[Tensor, Tensor]:
    """A label map ``[H, W]`` as its classes ``[N]`` and their masks ``[N, H, W]``, 0 or 1."""
    values = torch.unique(labels)
    values = values[values != ignore_index]
    return values.long(), (labels[None] == values[:, None, None]).float()


class MaskLoss:
    """Class cross-entropy, mask cross-entropy and Dice loss of matched queries.

    Of every frame and every supervised layer; unmatched queries are to say "no object", with a
    weight of 0.1. Void pixels belong to no mask.
    """

    def __init__(self, *, ignore_index: int = 255) -> None:
        self._ignore = ignore_index

    def __call__(self, scores: Tensor, masks: Tensor | None, labels: Tensor) -> LossParts:
        """Compare.

        Args:
            scores: class logits ``[batch, T, L, Q, K + 1]`` of L layers of the last T frames.
            masks: logits ``[batch, T, L, Q, h, w]``.
            labels: uint8 ``[batch, T', H, W]``, T' at least T.

        Returns:
            ``temporal`` is the classes' part, ``auxiliary`` the masks'; their sum is ``total``.
        """
        assert masks is not None
        labels = labels[:, -scores.shape[1] :]
        parts: list[tuple[Tensor, Tensor]] = []
        for clip in range(scores.shape[0]):
            for frame in range(scores.shape[1]):
                classes, targets = split_classes(labels[clip, frame], ignore_index=self._ignore)
                parts += [
                    self._layer(scores[clip, frame, layer], maps, classes, targets)
                    for layer, maps in enumerate(masks[clip, frame].float())
                ]
        frames = scores.shape[0] * scores.shape[1]
        of_class = torch.stack([part[0] for part in parts]).sum() / frames
        of_mask = torch.stack([part[1] for part in parts]).sum() / frames
        return LossParts(of_class + of_mask, of_class, of_mask)

    def _layer(
        self, logits: Tensor, masks: Tensor, classes: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        nothing = logits.shape[1] - 1
        wanted = torch.full((len(logits),), nothing, dtype=torch.long, device=logits.device)
        weights = torch.ones(nothing + 1, device=logits.device)
        weights[nothing] = NO_OBJECT_WEIGHT
        if not len(classes):
            of_class = F.cross_entropy(logits, wanted, weight=weights)
            return CLASS_WEIGHT * of_class, masks.sum() * 0
        queries, order = match_queries(logits, masks, classes, targets)
        wanted[queries] = classes[order]
        of_class = F.cross_entropy(logits, wanted, weight=weights)
        chosen = masks[queries]
        points = uncertain_points(chosen)
        values = sample_points(chosen, points)
        truth = sample_points(targets[order], points)
        of_mask = F.binary_cross_entropy_with_logits(values, truth)
        shares = values.sigmoid()
        dice = 1 - (2 * (shares * truth).sum(1) + 1) / (shares.sum(1) + truth.sum(1) + 1)
        return CLASS_WEIGHT * of_class, MASK_WEIGHT * of_mask + DICE_WEIGHT * dice.mean()

"""Mask2Former's losses against those of transformers, and matching against a search."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers.models.mask2former import modeling_mask2former as reference

from streamseg.training import mask_loss
from streamseg.training.mask_loss import (
    MaskLoss,
    match_queries,
    pair_costs,
    sample_points,
    split_classes,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_points_are_sampled_as_in_transformers() -> None:
    maps, points = draw(3, 9, 14), torch.rand(3, 50, 2)
    expected = reference.sample_point(maps[:, None], points, align_corners=False)[:, 0]
    torch.testing.assert_close(sample_points(maps, points), expected)


def test_costs_of_pairs_are_those_of_transformers() -> None:
    logits, masks = draw(6, 5), draw(6, 40, seed=1)
    classes = torch.tensor([2, 0])
    targets = (draw(2, 40, seed=2) > 0).float()
    expected = (
        -2 * logits.softmax(-1)[:, classes]
        + 5 * reference.pair_wise_sigmoid_cross_entropy_loss(masks, targets)
        + 5 * reference.pair_wise_dice_loss(masks, targets)
    )
    torch.testing.assert_close(pair_costs(logits, masks, classes, targets), expected)


def test_assignment_has_the_lowest_cost() -> None:
    torch.manual_seed(0)
    logits, masks = draw(5, 4), draw(5, 8, 8, seed=1)
    classes, targets = torch.tensor([1, 2, 0]), (draw(3, 8, 8, seed=2) > 0).float()
    torch.manual_seed(7)
    queries, order = match_queries(logits, masks, classes, targets)
    torch.manual_seed(7)
    points = torch.rand(1, mask_loss.POINTS, 2)
    costs = pair_costs(
        logits,
        sample_points(masks, points.expand(5, -1, -1)),
        classes,
        sample_points(targets, points.expand(3, -1, -1)),
    )
    best = min(
        sum(float(costs[query, target]) for target, query in enumerate(chosen))
        for chosen in itertools.permutations(range(5), 3)
    )
    assert float(costs[queries, order].sum()) == pytest.approx(best, rel=1e-5)


def test_losses_of_matched_masks_are_those_of_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        mask_loss, "match_queries", lambda *_: (torch.tensor([1, 3]),) * 1 + (torch.tensor([1, 0]),)
    )
    points = torch.rand(2, 60, 2)
    monkeypatch.setattr(mask_loss, "uncertain_points", lambda _: points)
    logits, masks = draw(1, 1, 1, 4, 6), draw(1, 1, 1, 4, 8, 16, seed=1)
    labels = torch.zeros(1, 1, 16, 32, dtype=torch.uint8)
    labels[..., 16:] = 3
    labels[..., :2, :] = 255
    parts = MaskLoss()(logits, masks, labels)
    wanted = torch.full((4,), 5)
    wanted[1], wanted[3] = 3, 0
    weight = torch.tensor([1.0] * 5 + [0.1])
    expected_class = 2 * torch.nn.functional.cross_entropy(logits[0, 0, 0], wanted, weight=weight)
    torch.testing.assert_close(parts.temporal, expected_class)
    values = reference.sample_point(masks[0, 0, 0][[1, 3]][:, None], points, align_corners=False)[
        :, 0
    ]
    truth = torch.stack([labels[0, 0] == 3, labels[0, 0] == 0]).float()
    truth = reference.sample_point(truth[:, None], points, align_corners=False)[:, 0]
    expected = 5 * reference.sigmoid_cross_entropy_loss(values, truth, 2)
    expected = expected + 5 * reference.dice_loss(values, truth, 2)
    torch.testing.assert_close(parts.auxiliary, expected)
    torch.testing.assert_close(parts.total, expected + expected_class)


def test_void_pixels_are_in_no_mask_and_frames_without_labels_ask_for_no_object() -> None:
    labels = torch.tensor([[0, 255], [2, 2]], dtype=torch.uint8)
    classes, masks = split_classes(labels, ignore_index=255)
    assert classes.tolist() == [0, 2]
    assert masks.tolist() == [[[1, 0], [0, 0]], [[0, 0], [1, 1]]]
    empty = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    parts = MaskLoss()(draw(1, 1, 1, 3, 4), draw(1, 1, 1, 3, 2, 2), empty)
    assert float(parts.auxiliary) == 0
    assert float(parts.temporal) > 0

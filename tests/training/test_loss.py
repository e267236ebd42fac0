from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from streamseg.training.loss import ClipLoss


def draw(batch: int = 3, length: int = 4, classes: int = 5, size: tuple[int, int] = (6, 8)):
    generator = torch.Generator().manual_seed(0)
    shape = (batch, length, classes, *size)
    scores = torch.randn(shape, generator=generator)
    auxiliary = torch.randn(shape, generator=generator)
    labels = torch.randint(0, classes, (batch, length, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return scores, auxiliary, labels.to(torch.uint8)


def entropy(scores, labels, **options):
    return F.cross_entropy(scores, labels.long(), ignore_index=255, **options)


def test_loss_is_last_frame_plus_half_the_sum_over_frames():
    scores, auxiliary, labels = draw()
    parts = ClipLoss()(scores, auxiliary, labels)
    temporal = entropy(scores[:, -1], labels[:, -1])
    summed = sum(entropy(auxiliary[:, t], labels[:, t]) for t in range(4))
    torch.testing.assert_close(parts.temporal, temporal)
    torch.testing.assert_close(parts.auxiliary, summed)
    torch.testing.assert_close(parts.total, temporal + 0.5 * summed)


def test_supervising_all_frames_takes_their_mean():
    scores, auxiliary, labels = draw()
    parts = ClipLoss(supervise="all", auxiliary=0.0)(scores, auxiliary, labels)
    mean = sum(entropy(scores[:, t], labels[:, t]) for t in range(4)) / 4
    torch.testing.assert_close(parts.total, mean)


def test_network_without_temporal_part_has_one_cross_entropy():
    scores, _, labels = draw(length=1)
    parts = ClipLoss()(scores, None, labels)
    torch.testing.assert_close(parts.total, entropy(scores[:, 0], labels[:, 0]))
    assert parts.auxiliary == 0


def test_class_weights_and_upsampling_are_those_of_torch():
    scores, _, _ = draw(length=1)
    labels = torch.randint(0, 5, (3, 1, 24, 32)).to(torch.uint8)
    labels[0, 0, :3] = 255
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])
    parts = ClipLoss(class_weights=weights)(scores, None, labels)
    full = F.interpolate(scores[:, 0], size=(24, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(parts.total, entropy(full, labels[:, 0], weight=weights))


def test_frames_without_labels_add_nothing():
    scores, auxiliary, labels = draw()
    labels[:, 1] = 255
    auxiliary.requires_grad_()
    parts = ClipLoss()(scores, auxiliary, labels)
    parts.total.backward()
    assert auxiliary.grad is not None
    assert (auxiliary.grad[:, 1] == 0).all()
    assert parts.total.isfinite()


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])])
def test_shares_of_processes_average_to_the_total(weights):
    # Unequal counts of ignored pixels: plain means of means would differ.
    scores, auxiliary, labels = draw(batch=4)
    labels[0, :, :4] = 255
    options = {"class_weights": weights, "supervise": "all"}
    whole = ClipLoss(**options)(scores, auxiliary, labels)
    counts = []
    for part in (slice(0, 2), slice(2, 4)):
        ClipLoss(**options, reduce=lambda share: counts.append(share) or share)(
            scores[part], auxiliary[part], labels[part]
        )
    sums = [counts[i] + counts[i + 2] for i in (0, 1)]
    totals = []
    for part in (slice(0, 2), slice(2, 4)):
        queue = iter(sums)
        shared = ClipLoss(**options, reduce=lambda _, q=queue: next(q), processes=2)
        totals.append(shared(scores[part], auxiliary[part], labels[part]).total)
    torch.testing.assert_close(sum(totals) / 2, whole.total)

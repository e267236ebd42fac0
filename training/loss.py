"""The paper's loss: temporal cross-entropy plus weighted auxiliary cross-entropies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.export.step import upsample

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossParts:
    """Scalars: ``total`` is what is minimised, ``auxiliary`` the unweighted sum over frames."""

    total: Tensor
    temporal: Tensor
    auxiliary: Tensor


class ClipLoss:
    """Cross-entropy of the temporal output + ``auxiliary`` * sum over frames of the auxiliary's.

    Every cross-entropy is the mean over the labelled pixels of a frame number, weighted by class.
    The mean is over the clips of all processes: ``reduce`` sums a tensor over them.

    Source: TV3S (CVPR 2025) section 3.3.
    """

    def __init__(
        self,
        *,
        auxiliary: float = 0.5,
        supervise: str = "last",
        class_weights: Tensor | None = None,
        ignore_index: int = 255,
        reduce: Reduce | None = None,
        processes: int = 1,
    ) -> None:
        self._auxiliary = auxiliary
        self._supervise = supervise
        self._weights = class_weights
        self._ignore = ignore_index
        self._reduce = reduce
        self._processes = processes

    def __call__(self, scores: Tensor, auxiliary: Tensor | None, labels: Tensor) -> LossParts:
        """Compare scores with labels.

        Args:
            scores: ``[batch, T, K, h, w]``, or of the last frame alone; resized bilinearly to the
                labels' size.
            auxiliary: ``[batch, T, K, h, w]``, or None.
            labels: uint8 ``[batch, T, H, W]``.
        """
        target = labels.long()
        if auxiliary is None or self._supervise == "all":
            temporal = self._by_frame(scores, target[:, -scores.shape[1] :]).mean()
        else:
            temporal = self._by_frame(scores[:, -1:], target[:, -1:])[0]
        if auxiliary is None:
            return LossParts(temporal, temporal, torch.zeros_like(temporal))
        summed = self._by_frame(auxiliary, target).sum()
        return LossParts(temporal + self._auxiliary * summed, temporal, summed)

    def _by_frame(self, scores: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of every frame number, ``[T]``."""
        batch, length = target.shape[:2]
        full = upsample(scores.flatten(0, 1).float(), (target.shape[2], target.shape[3]))
        flat = target.flatten(0, 1)
        each = F.cross_entropy(
            full, flat, weight=self._weights, ignore_index=self._ignore, reduction="none"
        )
        sums = each.sum((1, 2)).reshape(batch, length).sum(0)
        with torch.no_grad():
            scored = flat != self._ignore
            if self._weights is not None:
                safe = torch.where(scored, flat, torch.zeros_like(flat))
                weight = self._weights[safe] * scored
            else:
                weight = scored.float()
            share = weight.sum((1, 2)).reshape(batch, length).sum(0)
            if self._reduce is not None:
                share = self._reduce(share)
        # Launchers average gradients over processes, hence the factor.
        return self._processes * sums / share.clamp(min=1e-6)

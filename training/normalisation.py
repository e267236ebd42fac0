"""Batch norm over the clips of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce, forward and backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """``BatchNorm2d`` whose training statistics are those of all processes together.

    ``torch.nn.SyncBatchNorm`` does this on GPUs only.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]``, n the same in every process, to the same shape."""
        if not self.training:
            return super().forward(maps)
        wide = maps.float()
        moments = torch.stack([wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3))])
        world = torch.distributed.get_world_size()
        total: Tensor = _SumOverProcesses.apply(moments)  # type: ignore[no-untyped-call]
        mean, square = (total / world).unbind()
        variance = square - mean.square()
        self._remember(mean.detach(), variance.detach(), maps.numel() // maps.shape[1] * world)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(maps.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def synchronise_batch_norm(network: nn.Module) -> None:
    """Turn every batch norm into a ``SharedBatchNorm``; the tensors stay the same."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm

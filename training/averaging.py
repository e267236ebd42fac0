"""An exponential moving average of the weights: what is saved, not what is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages every floating tensor of a network, batch-norm statistics included."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors = {name: value.detach().clone() for name, value in _floating(network)}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after ``step``; early on the average is that of all so far."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in _floating(network):
            self.tensors[name].lerp_(value.detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Put the average into a network of the same kind."""
        for name, value in _floating(network):
            value.copy_(self.tensors[name])


def _floating(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [(k, v) for k, v in network.state_dict(keep_vars=True).items() if v.is_floating_point()]

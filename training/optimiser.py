"""AdamW with the head's learning rate raised, and a linear warm-up into polynomial decay."""

from __future__ import annotations

import torch
from torch import nn

from streamseg.training.config import TrainConfig


def build_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over four groups: encoder and head, each with and without weight decay.

    Tensors of one dimension (norms, biases), ``A_log`` and ``D`` are not decayed. A group's
    ``peak`` is the learning rate that ``set_learning_rate`` scales.
    """
    groups = []
    for encoder, factor in ((True, 1.0), (False, config.head_lr)):
        for decays in (True, False):
            chosen = [
                value
                for name, value in network.named_parameters()
                if value.requires_grad
                and ("backbone." in name) == encoder
                and _decays(name, value) == decays
            ]
            peak = config.lr * factor
            decay = config.weight_decay if decays else 0.0
            groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _decays(name: str, value: torch.Tensor) -> bool:
    return value.ndim > 1 and not name.endswith(("A_log", "relative_position_bias_table"))


def schedule(step: int, config: TrainConfig) -> float:
    """Factor of the peak learning rate at ``step``, counted from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return float((1 - min(done, 1.0)) ** config.power)


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor

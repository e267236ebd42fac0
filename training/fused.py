"""Temporal blocks over whole clips by the CUDA kernels of mamba-ssm and causal-conv1d.

Their scan takes no initial state, and clips start from the zero state: a clip's tokens of a cell,
frame after frame, are one sequence.
"""

from __future__ import annotations

import importlib
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.export.models.mamba import TemporalBlocks, TemporalLayer
from streamseg.export.windows import WindowGeometry
from streamseg.installation import package_command

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusedKernels:
    """The two functions, with the signatures of their libraries.

    Attributes:
        scan: ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``.
        conv: ``causal_conv1d.causal_conv1d_fn``.
    """

    scan: Callable[..., Tensor]
    conv: Callable[..., Tensor]


@cache
def find_kernels() -> FusedKernels | None:
    """The libraries' functions; None, logged once, where one is not installed."""
    try:
        conv = importlib.import_module("causal_conv1d").causal_conv1d_fn
        scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except ImportError as error:
        _log.warning(
            "temporal blocks run by the reference scan, which is slow: %s. "
            "For training on CUDA: %s",
            error,
            package_command("mamba-ssm", "causal-conv1d"),
        )
        return None
    return FusedKernels(scan, conv)


@lru_cache(maxsize=64)
def _cells_by_shape(geometry: WindowGeometry) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Token indices of every cell, cells of one shape together: border cells are smaller."""
    groups: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
    for top, bottom in geometry.rows:
        for left, right in geometry.columns:
            tokens = tuple(
                y * geometry.map_w + x for y in range(top, bottom) for x in range(left, right)
            )
            groups[bottom - top, right - left].append(tokens)
    return tuple(tuple(cells) for cells in groups.values())


def run_fused(
    blocks: TemporalBlocks, kernels: FusedKernels, frames: Sequence[Tensor]
) -> list[Tensor]:
    """``TemporalBlocks.forward`` from the zero state, without the state after.

    Args:
        blocks: the layers.
        kernels: what runs convolution and scan.
        frames: ``[batch, C, h, w]`` each, in order.
    Returns:
        ``[batch, C, h, w]`` of each frame.
    """
    map_size = (frames[0].shape[2], frames[0].shape[3])
    residual = torch.stack([frame.flatten(2).transpose(1, 2) for frame in frames], dim=1)
    hidden: Tensor | None = None
    for number, layer in enumerate(blocks.layers):
        assert isinstance(layer, TemporalLayer)
        if hidden is not None:
            residual = residual + hidden
        geometry = blocks.config.geometry(number, map_size)
        hidden = _mix(layer.mixer, kernels, layer.norm(residual), geometry)
    assert hidden is not None
    final = blocks.norm_f(hidden + residual)
    return [tokens.transpose(1, 2).unflatten(2, map_size) for tokens in final.unbind(1)]


def _mix(mixer: Any, kernels: FusedKernels, tokens: Tensor, geometry: WindowGeometry) -> Tensor:
    """One mixer over ``[batch, T, M, C]``."""
    x, z = mixer.in_proj(tokens).chunk(2, dim=-1)
    y = torch.empty_like(x)
    for cells in _cells_by_shape(geometry):
        index = torch.tensor(cells, device=x.device)
        found = _scan_cells(mixer, kernels, _to_sequences(x, index), _to_sequences(z, index))
        y = y.index_copy(2, index.flatten(), _to_tokens(found, index, x.shape[1]))
    out: Tensor = mixer.out_proj(y)
    return out


def _to_sequences(tokens: Tensor, index: Tensor) -> Tensor:
    """``[batch, T, M, D]`` to ``[batch * cells, D, T * length]``; ``index`` is (cells, length)."""
    batch, _, _, width = tokens.shape
    picked = tokens[:, :, index]  # [batch, T, cells, length, D]
    ordered = picked.permute(0, 2, 4, 1, 3)
    return ordered.reshape(batch * index.shape[0], width, -1)


def _to_tokens(sequences: Tensor, index: Tensor, frames: int) -> Tensor:
    """Back to ``[batch, T, cells * length, D]``, tokens in the order of ``index``."""
    cells, length = index.shape
    split = sequences.reshape(-1, cells, sequences.shape[1], frames, length)
    return split.permute(0, 3, 1, 4, 2).flatten(2, 3)


def _scan_cells(mixer: Any, kernels: FusedKernels, x: Tensor, z: Tensor) -> Tensor:
    weight = mixer.conv1d.weight.squeeze(1)
    u = kernels.conv(x, weight, mixer.conv1d.bias, activation="silu")
    low, into, out = mixer.x_proj(u.transpose(1, 2)).split(
        (mixer.rank, mixer.states, mixer.states), dim=-1
    )
    dt = F.linear(low, mixer.dt_proj.weight).transpose(1, 2)
    return kernels.scan(
        u,
        dt.contiguous(),
        -torch.exp(mixer.A_log.float()),
        into.transpose(1, 2).contiguous(),
        out.transpose(1, 2).contiguous(),
        mixer.D.float(),
        z=z,
        delta_bias=mixer.dt_proj.bias.float(),
        delta_softplus=True,
    )

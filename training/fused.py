"""Temporal blocks over whole clips by CUDA kernels: those of mamba-ssm and causal-conv1d, or ours.

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
    """Two functions with the signatures of those of mamba-ssm and causal-conv1d.

    Attributes:
        scan: ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``, or our own.
        conv: ``causal_conv1d.causal_conv1d_fn``, or our own.
    """

    scan: Callable[..., Tensor]
    conv: Callable[..., Tensor]


@cache
def find_kernels() -> FusedKernels | None:
    """The libraries' functions, else Triton's; None, logged once, where Triton is missing too."""
    try:
        conv = importlib.import_module("causal_conv1d").causal_conv1d_fn
        scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
        return FusedKernels(_with_dense_arguments(scan), _with_dense_arguments(conv))
    except ImportError:
        pass
    try:
        scan = importlib.import_module("streamseg.training.triton_scan").selective_scan
    except ImportError as error:
        _log.warning(
            "temporal blocks run by the reference scan, which is slow: %s. "
            "For training on CUDA: %s",
            error,
            package_command("triton"),
        )
        return None
    return FusedKernels(scan, causal_conv)


def _with_dense_arguments(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*tensors: Tensor, z: Tensor | None = None, **options: Any) -> Tensor:
        if z is not None:
            options["z"] = z.contiguous()
        return function(*(tensor.contiguous() for tensor in tensors), **options)

    return run


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """``causal_conv1d_fn`` in PyTorch: SiLU of a causal convolution of each channel by itself.

    Args:
        x: ``[sequences, channels, length]``.
        weight: ``[channels, taps]``, oldest first.
        bias: ``[channels]``.
        activation: only ``silu``.
    Returns:
        Like ``x``.
    Raises:
        ValueError: another activation.
    """
    if activation != "silu":
        raise ValueError(f"activation is {activation!r}: expected 'silu'")
    taps, length = weight.shape[1], x.shape[2]
    rows = F.pad(x.transpose(1, 2), (0, 0, taps - 1, 0))
    total = bias.expand(x.shape[0], length, -1)
    for tap in range(taps):
        total = torch.addcmul(total, rows[:, tap : tap + length], weight[:, tap])
    return F.silu(total).transpose(1, 2)


@lru_cache(maxsize=64)
def _cells_by_shape(
    geometry: WindowGeometry, device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Token indices (cells, length), cells of one shape together, and where each token comes.

    Border cells are smaller.
    """
    groups: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
    for top, bottom in geometry.rows:
        for left, right in geometry.columns:
            groups[bottom - top, right - left].append(
                [y * geometry.map_w + x for y in range(top, bottom) for x in range(left, right)]
            )
    cells = [torch.tensor(group) for group in groups.values()]
    places = torch.cat([group.flatten() for group in cells]).argsort()
    return tuple(group.to(device) for group in cells), places.to(device)


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
    groups, places = _cells_by_shape(geometry, tokens.device)
    found = [_mix_cells(mixer, kernels, tokens, index) for index in groups]
    return torch.cat(found, dim=2).index_select(2, places)


def _mix_cells(mixer: Any, kernels: FusedKernels, tokens: Tensor, index: Tensor) -> Tensor:
    """Cells of one shape, ``index`` (cells, length): ``[batch, T, cells * length, C]``."""
    batch, frames, _, width = tokens.shape
    cells, length = index.shape
    picked = tokens.index_select(2, index.flatten()).reshape(batch, frames, cells, length, width)
    sequences = picked.transpose(1, 2).reshape(batch * cells, frames * length, width)
    mixed = _mix_sequences(mixer, kernels, sequences)
    return mixed.reshape(batch, cells, frames, length, width).transpose(1, 2).flatten(2, 3)


def _mix_sequences(mixer: Any, kernels: FusedKernels, sequences: Tensor) -> Tensor:
    """One mixer over ``[sequences, length, C]``; the kernels take length last."""
    x, z = mixer.in_proj(sequences).transpose(1, 2).chunk(2, dim=1)
    weight = mixer.conv1d.weight.squeeze(1)
    u = kernels.conv(x, weight, mixer.conv1d.bias, activation="silu")
    low, into, out = mixer.x_proj(u.transpose(1, 2)).split(
        (mixer.rank, mixer.states, mixer.states), dim=-1
    )
    dt = F.linear(low, mixer.dt_proj.weight)
    y = kernels.scan(
        u,
        dt.transpose(1, 2),
        -torch.exp(mixer.A_log.float()),
        into.transpose(1, 2),
        out.transpose(1, 2),
        mixer.D.float(),
        z=z,
        delta_bias=mixer.dt_proj.bias.float(),
        delta_softplus=True,
    )
    mixed: Tensor = mixer.out_proj(y.transpose(1, 2))
    return mixed

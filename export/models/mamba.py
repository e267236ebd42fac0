"""The windowed temporal blocks of TV3S: Mamba layers over window grids, state passed through.

Glossary (Mamba, arXiv 2312.00752): ``d_inner`` channels inside a layer, ``d_state`` states per
channel, ``d_conv`` convolution taps, ``dt_rank`` rank of the step-size projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import CheckpointError
from streamseg.export import ops
from streamseg.export.settings import Known, read_pair, setting
from streamseg.export.windows import WindowGeometry
from streamseg.runtime.bundle.claims import format_setting
from streamseg.runtime.bundle.state import StateSpec

RMS_NORM_EPS = 1e-5
RunBlocks = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], list[Tensor]]]
"""Maps of frames and the state before them, to maps and the state after, as ``TemporalBlocks``."""


def _half_window(known: Known) -> tuple[int, int]:
    """The paper's rule, s = w/2."""
    height, width = known["window"]
    return height // 2, width // 2


@dataclass(frozen=True)
class BlocksConfig:
    """Sizes of the temporal blocks; ``window`` and ``shift`` are (height, width) in map tokens."""

    embed_dim: int
    layers: int = 8
    d_inner: int = 0
    d_state: int = 16
    d_conv: int = 4
    dt_rank: int = 0
    window: tuple[int, int] = field(
        default=(20, 20),
        kw_only=True,
        metadata=setting(
            "window of the temporal blocks in map tokens",
            expected="1 or more; HEIGHT,WIDTH or one number for both",
            read=read_pair(1),
        ),
    )
    shift: tuple[int, int] = field(
        default=(10, 10),
        kw_only=True,
        metadata=setting(
            "cut of every second layer's grid",
            expected="0 to window - 1; HEIGHT,WIDTH or one number for both",
            read=read_pair(0),
            published=_half_window,
        ),
    )

    def __post_init__(self) -> None:
        pairs = zip(self.shift, self.window, strict=True)
        if min(self.window) < 1 or any(not 0 <= shift < window for shift, window in pairs):
            raise CheckpointError(
                f"shift is {format_setting(self.shift)}, expected 0 to window - 1 (window is "
                f"{format_setting(self.window)})"
            )

    def geometry(self, layer: int, map_size: tuple[int, int]) -> WindowGeometry:
        """Grid of ``layer``: plain for even layers, cut ``shift`` tokens in for odd ones."""
        offset = self.shift if layer % 2 else (0, 0)
        return WindowGeometry(*map_size, *self.window, *offset)

    def state_spec(self, map_size: tuple[int, int]) -> tuple[StateSpec, ...]:
        """Two tensors a layer: ``layer<i>.conv`` and ``layer<i>.scan``."""
        table = []
        for layer in range(self.layers):
            cells = self.geometry(layer, map_size).cells
            shape = (1, cells, self.d_inner)
            table.append(StateSpec(f"layer{layer}.conv", (*shape, self.d_conv - 1)))
            table.append(StateSpec(f"layer{layer}.scan", (*shape, self.d_state)))
        return tuple(table)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, with a weight and no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to the same shape."""
        # A quotient, not a product with rsqrt: runtimes fuse this form into one pass.
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + RMS_NORM_EPS) * self.weight


class WindowedMamba(nn.Module):
    """One Mamba mixer on the flat map; the window grid lives in its two ops."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        inner, states, rank = config.d_inner, config.d_state, config.dt_rank
        self.rank, self.states = rank, states
        self.in_proj = nn.Linear(config.embed_dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.embed_dim, bias=False)
        self._init_dt()

    def _init_dt(self) -> None:
        # Mamba's initialisation: softplus(bias) log-uniform in [1e-3, 1e-1].
        bound = self.rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        dt = torch.exp(torch.rand(len(self.dt_proj.bias)) * math.log(100) + math.log(1e-3))
        self.dt_proj.bias.data = dt + torch.log(-torch.expm1(-dt))

    def forward(
        self, frames: Sequence[Tensor], state: tuple[Tensor, Tensor], geometry: WindowGeometry
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Run consecutive frames.

        Args:
            frames: ``[batch, M, C]`` each, in order.
            state: conv ``[batch, cells, d_inner, d_conv-1]`` and scan
                ``[batch, cells, d_inner, d_state]``.
            geometry: the layer's grid.
        Returns:
            ``[batch, M, C]`` of each frame, and the state after the last.
        """
        conv, scan = state
        place = (
            geometry.map_h,
            geometry.map_w,
            geometry.window_h,
            geometry.window_w,
            geometry.offset_h,
            geometry.offset_w,
        )
        inner = len(self.D)
        into_x, into_z = self.in_proj.weight[:inner], self.in_proj.weight[inner:]
        A = -torch.exp(self.A_log.to(scan.dtype))  # noqa: N806
        outputs = []
        for frame in frames:
            x, z = F.linear(frame, into_x), F.linear(frame, into_z)
            x, conv = ops.windowed_causal_conv(
                x, self.conv1d.weight.squeeze(1), self.conv1d.bias, conv, *place
            )
            low, B, C = self.x_proj(x).split((self.rank, self.states, self.states), dim=-1)  # noqa: N806
            dt = F.linear(low, self.dt_proj.weight)
            y, scan = ops.windowed_selective_scan(
                x, dt, self.dt_proj.bias, A, B.contiguous(), C.contiguous(), self.D, z, scan, *place
            )
            outputs.append(self.out_proj(y))
        return outputs, (conv, scan)


class TemporalLayer(nn.Module):
    """RMSNorm and mixer of one layer."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.embed_dim)
        self.mixer = WindowedMamba(config)


class TemporalBlocks(nn.Module):
    """All layers and the final norm: maps in, maps and state out."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TemporalLayer(config) for _ in range(config.layers))
        self.norm_f = RMSNorm(config.embed_dim)

    def forward(
        self, frames: Sequence[Tensor], state: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run consecutive frames through every layer.

        Args:
            frames: ``[batch, C, h, w]`` each, h and w multiples of nothing in particular.
            state: as ``BlocksConfig.state_spec`` lists it, with the same batch.
        Returns:
            ``[batch, C, h, w]`` of each frame, and the state after the last.
        """
        map_size = (frames[0].shape[2], frames[0].shape[3])
        residual = [frame.flatten(2).transpose(1, 2) for frame in frames]
        hidden: list[Tensor] = []
        new_state: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, TemporalLayer)
            if hidden:
                residual = [r + h for r, h in zip(residual, hidden, strict=True)]
            hidden, after = layer.mixer(
                [layer.norm(r) for r in residual],
                (state[2 * i], state[2 * i + 1]),
                self.config.geometry(i, map_size),
            )
            new_state.extend(after)
        final = [self.norm_f(h + r) for h, r in zip(hidden, residual, strict=True)]
        return [tokens.transpose(1, 2).unflatten(2, map_size) for tokens in final], new_state

"""The temporal blocks against mamba_ssm's own selective_scan_ref, cut into windows by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.export.models.mamba import BlocksConfig, TemporalBlocks

# Both sum in float32, in other orders.
LIMIT = 5e-6


def cut(extent: int, window: int, offset: int) -> list[range]:
    """Bands of a map: 0, offset, offset + window, ... extent."""
    borders = sorted({0, *range(offset, extent, window), extent})
    return [range(a, b) for a, b in itertools.pairwise(borders)]


def mix(
    layer: Any, normed: list[Tensor], size: tuple[int, int], cells: list[list[int]], scan: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """One Mamba mixer on every cell by itself, all frames as one sequence (arXiv 2312.00752)."""
    mixer, frames = layer.mixer, len(normed)
    inner, states, rank = len(mixer.D), mixer.states, mixer.rank
    out = [torch.zeros(size[0] * size[1], normed[0].shape[1]) for _ in range(frames)]
    last = []
    for tokens in cells:
        sequence = torch.cat([frame[tokens] for frame in normed]).T[None]  # [1, C, frames * cell]
        x, z = (mixer.in_proj.weight @ sequence[0])[None].split(inner, dim=1)
        taps = mixer.conv1d.weight.shape[-1]
        x = F.silu(
            F.conv1d(F.pad(x, (taps - 1, 0)), mixer.conv1d.weight, mixer.conv1d.bias, groups=inner)
        )
        low, b, c = (mixer.x_proj.weight @ x[0]).split((rank, states, states))
        delta = mixer.dt_proj.weight @ low
        y, state = scan(
            x,
            delta[None],
            -torch.exp(mixer.A_log),
            b[None],
            c[None],
            D=mixer.D,
            z=z,
            delta_bias=mixer.dt_proj.bias,
            delta_softplus=True,
            return_last_state=True,
        )
        last.append(state[0])
        mixed = (mixer.out_proj.weight @ y[0]).T.reshape(frames, len(tokens), -1)
        for index in range(frames):
            out[index][tokens] = mixed[index]
    return out, last


@pytest.mark.parametrize(
    ("layers", "window", "shift", "size"),
    [
        (8, (4, 4), (2, 2), (8, 12)),
        (2, (2, 2), (1, 1), (6, 4)),
        (3, (5, 3), (2, 0), (10, 9)),
        (2, (4, 6), (3, 5), (7, 13)),
        (1, (20, 20), (10, 10), (20, 20)),
    ],
)
@torch.no_grad()
def test_steps_equal_mamba_over_whole_sequences(
    selective_scan_ref: Callable[..., Any],
    layers: int,
    window: tuple[int, int],
    shift: tuple[int, int],
    size: tuple[int, int],
) -> None:
    torch.manual_seed(layers)
    config = BlocksConfig(
        12, layers=layers, d_inner=24, d_state=5, dt_rank=2, window=window, shift=shift
    )
    blocks = TemporalBlocks(config).eval()
    for value in blocks.parameters():
        value.add_(0.05 * torch.randn_like(value))
    frames = [torch.randn(1, 12, *size) for _ in range(3)]
    state = [torch.zeros(spec.shape) for spec in config.state_spec(size)]
    ours = []
    for frame in frames:  # one frame a step, as it streams
        (out,), state = blocks([frame], state)
        ours.append(out)

    residual = [frame[0].flatten(1).T for frame in frames]
    hidden: list[Tensor] = []
    for index, layer in enumerate(blocks.layers):
        offset = shift if index % 2 else (0, 0)
        rows = cut(size[0], window[0], offset[0])
        columns = cut(size[1], window[1], offset[1])
        cells = [
            [y * size[1] + x for y in row for x in column] for row in rows for column in columns
        ]
        if hidden:
            residual = [r + h for r, h in zip(residual, hidden, strict=True)]
        normed = [
            r * torch.rsqrt(r.square().mean(1, keepdim=True) + 1e-5) * layer.norm.weight
            for r in residual
        ]
        hidden, last = mix(layer, normed, size, cells, selective_scan_ref)
        kept = state[2 * index + 1][0]
        assert kept.shape[0] == len(cells)
        assert max((kept[i] - last[i]).abs().max() for i in range(len(cells))) < LIMIT
    for mine, h, r in zip(ours, hidden, residual, strict=True):
        total = h + r
        expected = total * torch.rsqrt(total.square().mean(1, keepdim=True) + 1e-5)
        expected = (expected * blocks.norm_f.weight).T.reshape(1, 12, *size)
        assert (mine - expected).abs().max() < LIMIT

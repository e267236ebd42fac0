"""Cross-frame focal attention (CFFM, arXiv 2207.10436): token tables and the mining block.

Each 7x7 window of the target attends to 289 tokens: its own 49, 132 around it, 25 pooled from
the target, and 49, 25 and 9 pooled from the references, oldest first. Which token that is, is a
constant gather table of the map's size; cells outside a pooled grid point at a zero row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.export.step import upsample

WINDOW = 7
EXPAND = 3
HEADS = 8
NORM_EPS = 1e-5
OUTSIDE = -100.0


@dataclass(frozen=True)
class PooledSet:
    """Pooled tokens: ``cells`` a window, and per window of the map ``kernel`` ** 2 of them.

    ``pool`` pixels make a cell, ``kernel`` cells a window, ``stride`` cells apart, first cell
    ``pad`` before the window's.
    """

    pool: int
    cells: int
    kernel: int

    @property
    def pad(self) -> int:
        """Cells before the first."""
        return self.kernel // 2


OWN = PooledSet(pool=7, cells=1, kernel=5)
REFERENCE_SETS = (PooledSet(7, 1, 7), PooledSet(3, 2, 5), PooledSet(2, 3, 3))
Table = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class TokenTable:
    """Which key each window attends to.

    Attributes:
        tokens: [windows, 289] rows of the token list: map, own pooled, far, mid, near, zero row.
        mask: [windows, 1, 1, 289] 0, or ``OUTSIDE`` for the zero row.
    """

    tokens: Tensor
    mask: Tensor


def token_table(rows: int, columns: int, *, device: torch.device | None = None) -> TokenTable:
    """The table of a map of ``rows`` x ``columns`` windows."""
    # Arrays are cached rather than tensors: a tensor made while exporting is a fake one.
    tokens, mask = _token_arrays(rows, columns)
    return TokenTable(
        torch.from_numpy(tokens).to(device=device), torch.from_numpy(mask).to(device=device)
    )


@lru_cache(maxsize=8)
def _token_arrays(rows: int, columns: int) -> tuple[Table, np.ndarray[Any, np.dtype[np.float32]]]:
    grid = np.indices((rows, columns)).reshape(2, -1).T
    height, width = rows * WINDOW, columns * WINDOW
    at = np.concatenate([_cells(0, WINDOW), *_surroundings()])
    y, x = (grid[:, None, axis] * WINDOW + at[None, :, axis] for axis in range(2))
    parts = [(y % height) * width + x % width]
    first = height * width
    outside: list[Any] = [np.zeros_like(parts[0], dtype=bool)]
    for pooled in (OWN, *REFERENCE_SETS):
        at = _cells(-pooled.pad, pooled.kernel)
        y, x = (grid[:, None, axis] * pooled.cells + at[None, :, axis] for axis in range(2))
        extent = (rows * pooled.cells, columns * pooled.cells)
        beyond = (y < 0) | (x < 0) | (y >= extent[0]) | (x >= extent[1])
        parts.append(np.where(beyond, -1, first + y * extent[1] + x))
        outside.append(beyond)
        first += extent[0] * extent[1]
    tokens = np.concatenate(parts, axis=1)
    beyond = np.concatenate(outside, axis=1)
    tokens[beyond] = first
    mask = np.where(beyond, OUTSIDE, 0.0).astype(np.float32)[:, None, None, :]
    return tokens, mask


def _cells(first: int, kernel: int) -> Table:
    """Offsets [kernel ** 2, 2] of a square of cells in raster order."""
    cells: Table = np.indices((kernel, kernel)).reshape(2, -1).T + first
    return cells


def _surroundings() -> list[Table]:
    """Four shifted copies of the window, each without what lies in the window itself."""
    found = []
    for dy, dx in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        at = _cells(0, WINDOW) + np.array([dy, dx]) * EXPAND
        found.append(at[((at < 0) | (at >= WINDOW)).any(axis=1)])
    return found


def relative_index(kernel: int) -> Tensor:
    """Bias row of each (query of the window, key of a ``kernel`` x ``kernel`` square)."""
    offset = _cells(0, WINDOW)[:, None] - _cells(0, kernel)[None] + kernel - 1
    side = WINDOW + kernel - 1
    return torch.from_numpy(offset[..., 0] * side + offset[..., 1])


def pad_to_windows(maps: Tensor) -> Tensor:
    """``[1, H, W, C]`` zero-padded right and bottom to multiples of the window."""
    height, width = maps.shape[1], maps.shape[2]
    return F.pad(maps, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))


def to_windows(maps: Tensor) -> Tensor:
    """``[1, H, W, C]`` to ``[windows, 49, C]``."""
    _, height, width, channels = maps.shape
    cut = maps.reshape(height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return cut.transpose(1, 2).reshape(-1, WINDOW * WINDOW, channels)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Inverse of ``to_windows``."""
    cut = windows.reshape(height // WINDOW, width // WINDOW, WINDOW, WINDOW, -1)
    return cut.transpose(1, 2).reshape(1, height, width, -1)


class WindowPool(nn.Linear):
    """Weighted sum over ``size`` x ``size`` pixels plus a bias, the same for all channels."""

    def __init__(self, size: int) -> None:
        super().__init__(size * size, 1)
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """``[1, H, W, C]`` to tokens ``[1, H/size * W/size, C]``."""
        images = maps.permute(3, 0, 1, 2)
        kernel = self.weight.reshape(1, 1, self.size, self.size)
        pooled = F.conv2d(images, kernel, self.bias, stride=self.size)
        return pooled.reshape(1, maps.shape[3], -1).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


def split_heads(tokens: Tensor) -> Tensor:
    """``[n, T, C]`` to ``[n, heads, T, C / heads]``."""
    return tokens.reshape(tokens.shape[0], tokens.shape[1], HEADS, -1).transpose(1, 2)


class FocalAttention(nn.Module):
    """Windows of the target attend to the tokens of ``token_table``; published key names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = (width // HEADS) ** -0.5
        around = 4 * (WINDOW**2 - (WINDOW - EXPAND) ** 2)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, HEADS))
        self.relative_position_bias_table_to_neighbors = nn.Parameter(
            torch.zeros(1, HEADS, WINDOW**2, around)
        )
        self.relative_position_bias_table_to_windows = nn.ParameterList([_bias_rows(OWN.kernel)])
        self.relative_position_bias_table_to_windows_clips = nn.ParameterList(
            [_bias_rows(pooled.kernel) for pooled in REFERENCE_SETS]
        )
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def bias(self) -> Tensor:
        """Position bias ``[1, heads, 49, 289]``, a constant once the weights are."""
        own = self.relative_position_bias_table.T[:, relative_index(WINDOW)]
        pooled = [
            rows[:, relative_index(entry.kernel)]
            for rows, entry in zip(
                (
                    *self.relative_position_bias_table_to_windows,
                    *self.relative_position_bias_table_to_windows_clips,
                ),
                (OWN, *REFERENCE_SETS),
                strict=True,
            )
        ]
        around = self.relative_position_bias_table_to_neighbors
        return torch.cat([own[None], around, *(entry[None] for entry in pooled)], dim=3)

    def forward(self, target: Tensor, pooled: list[Tensor]) -> Tensor:
        """Attend.

        Args:
            target: normed and padded, ``[1, H, W, C]``.
            pooled: own, far, mid, near tokens ``[1, n, C]``.
        Returns:
            windows ``[windows, 49, C]`` after the output projection.
        """
        _, height, width, channels = target.shape
        table = token_table(height // WINDOW, width // WINDOW, device=target.device)
        weights, biases = self.qkv.weight, self.qkv.bias
        query = F.linear(to_windows(target), weights[:channels], biases[:channels])
        tokens = torch.cat([target.reshape(1, -1, channels), *pooled], dim=1)[0]
        # The zero row is appended after the projection: outside cells have no bias either.
        found = F.linear(tokens, weights[channels:], biases[channels:])
        found = F.pad(found, (0, 0, 0, 1))
        key, value = found[:, :channels], found[:, channels:]
        logits = split_heads(query * self.scale) @ split_heads(key[table.tokens]).transpose(2, 3)
        attention = (logits + self.bias() + table.mask).softmax(dim=-1)
        gathered = attention @ split_heads(value[table.tokens])
        out: Tensor = self.proj(gathered.transpose(1, 2).flatten(2))
        return out


def _bias_rows(kernel: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(HEADS, (WINDOW + kernel - 1) ** 2))


class FocalBlock(nn.Module):
    """One mining block: the target is updated, the references stay as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool_layers = nn.ModuleList([WindowPool(OWN.pool)])
        self.pool_layers_clips = nn.ModuleList([WindowPool(p.pool) for p in REFERENCE_SETS])
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = FocalAttention(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, target: Tensor, references: list[Tensor]) -> Tensor:
        """``target`` and three ``references`` (oldest first), all ``[1, h, w, C]``."""
        height, width = target.shape[1], target.shape[2]
        normed = pad_to_windows(self.norm1(target))
        pooled = [self.pool_layers[0](normed)]
        for layer, spec, reference in zip(
            self.pool_layers_clips, REFERENCE_SETS, references, strict=True
        ):
            padded = pad_to_windows(self.norm1(reference))
            pooled.append(layer(_resize_for(spec, padded)))
        windows = self.attn(normed, pooled)
        mined = from_windows(windows, normed.shape[1], normed.shape[2])
        out = target + mined[:, :height, :width]
        added: Tensor = self.mlp(self.norm2(out))
        return out + added


def _resize_for(spec: PooledSet, maps: Tensor) -> Tensor:
    """Shrink the map where a window's pixels do not divide into the set's cells."""
    side = spec.pool * spec.cells
    if side == WINDOW:
        return maps
    size = (maps.shape[1] // WINDOW * side, maps.shape[2] // WINDOW * side)
    return upsample(maps.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


class FocalDecoder(nn.Module):
    """The mining blocks in a row."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FocalBlock(width) for _ in range(depth))

    def forward(self, target: Tensor, references: list[Tensor]) -> Tensor:
        """See ``FocalBlock``."""
        for block in self.blocks:
            target = block(target, references)
        return target

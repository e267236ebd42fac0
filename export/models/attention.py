"""Attention, feed-forward layers and position codes of the mask transformers, as published."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-5
HEADS = 8
TEMPERATURE = 10000


class Attention(nn.Module):
    """Multi-head attention with the parameters of ``nn.MultiheadAttention``, batch first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """``[1, T, C]``, ``[1, S, C]`` twice, and ``[1 or heads, T, S]`` to ``[1, T, C]``."""
        width = self.out_proj.in_features
        # Slices of weights are folded into constants by the exporter, splits are not.
        projected = (
            F.linear(
                tokens[0], self.in_proj_weight[at : at + width], self.in_proj_bias[at : at + width]
            )
            for at, tokens in zip((0, width, 2 * width), (query, key, value), strict=True)
        )
        q, k, v = (part.reshape(part.shape[0], HEADS, -1).transpose(0, 1) for part in projected)
        logits = (q * (1 / math.sqrt(q.shape[2]))) @ k.transpose(1, 2)
        attention = (logits if bias is None else logits + bias).softmax(dim=-1)
        joined = (attention @ v).transpose(0, 1).flatten(1)
        out: Tensor = self.out_proj(joined)
        return out[None]


class SelfAttentionLayer(nn.Module):
    """Attention of tokens to themselves, then residual and norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor, position: Tensor | None = None) -> Tensor:
        """``tokens [1, T, C]``; ``position`` goes into queries and keys only."""
        query = tokens if position is None else tokens + position
        out: Tensor = self.norm(tokens + self.self_attn(query, query, tokens))
        return out


class CrossAttentionLayer(nn.Module):
    """Attention of queries to a memory, then residual and norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(
        self, tokens: Tensor, position: Tensor, memory: Tensor, code: Tensor, bias: Tensor
    ) -> Tensor:
        """``tokens [1, Q, C]`` attend to ``memory [1, S, C]`` with codes on queries and keys."""
        found = self.multihead_attn(tokens + position, memory + code, memory, bias)
        out: Tensor = self.norm(tokens + found)
        return out


class FeedForwardLayer(nn.Module):
    """Two linear layers with ReLU, then residual and norm."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[1, T, C]`` to the same shape."""
        out: Tensor = self.norm(tokens + self.linear2(F.relu(self.linear1(tokens))))
        return out


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C']``."""
        for index, layer in enumerate(self.layers):
            tokens = layer(F.relu(tokens) if index else tokens)
        return tokens


def position_code(
    height: int, width: int, channels: int, *, device: torch.device | None = None
) -> Tensor:
    """Sine code ``[1, height * width, channels]``: y half, then x half, sines and cosines paired.

    Coordinates run from 1 and are divided by the extent, times 2 pi (arXiv 2005.12872).
    """
    half = channels // 2
    exponent = 2 * torch.div(torch.arange(half, device=device), 2, rounding_mode="floor") / half
    wavelength = TEMPERATURE**exponent

    def code(extent: int) -> Tensor:
        at = torch.arange(1, extent + 1, device=device) / (extent + 1e-6) * 2 * math.pi
        angle = at[:, None] / wavelength
        pairs = (angle[:, 0::2].sin(), angle[:, 1::2].cos())
        return torch.stack(pairs, dim=2).flatten(1)

    rows = code(height)[:, None].expand(height, width, half)
    columns = code(width)[None].expand(height, width, half)
    return torch.cat([rows, columns], dim=2).reshape(1, height * width, channels)


def to_tokens(maps: Tensor) -> Tensor:
    """``[1, C, h, w]`` to ``[1, h*w, C]``."""
    return maps.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of ``to_tokens``."""
    return tokens.transpose(1, 2).reshape(1, -1, *size)

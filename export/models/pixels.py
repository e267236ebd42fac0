"""Pixel decoder of Mask2Former (arXiv 2112.01527): multi-scale deformable attention and an FPN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.export.models.attention import HEADS, NORM_EPS, position_code, to_map, to_tokens
from streamseg.export.step import Size, upsample

POINTS = 4
LEVELS = 3
# Tokens that sample at once. ONNX Runtime orders a graph depth first, so what all points of a piece
# have found is alive together: 9 MB a point with 256 channels.
PIECE = 8704
GROUPS = 32


@dataclass(frozen=True)
class PixelSizes:
    """Sizes of the pixel decoder."""

    width: int = 256
    mask_width: int = 256
    layers: int = 6
    inner: int = 1024


class DeformableAttention(nn.Module):
    """Every token samples ``POINTS`` places a head on every level (arXiv 2010.04159)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sampling_offsets = nn.Linear(width, HEADS * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(width, HEADS * LEVELS * POINTS)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(
        self, query: Tensor, tokens: Tensor, references: Tensor, sizes: list[Size]
    ) -> Tensor:
        """Attend.

        Args:
            query: tokens with their position codes, ``[1, T, C]``.
            tokens: values, ``[1, T, C]``, levels one after the other.
            references: each token's place, ``[T, 2]`` x and y from 0 to 1.
            sizes: (height, width) of the levels.
        Returns:
            ``[1, T, C]``.
        """
        count = query.shape[1]
        offsets = self.sampling_offsets(query).reshape(count, HEADS, LEVELS, POINTS, 2)
        weights = self.attention_weights(query).reshape(count, HEADS, LEVELS * POINTS)
        weights = weights.softmax(dim=2).reshape(count, HEADS, LEVELS, POINTS)
        values = self.value_proj(tokens)[0].reshape(count, HEADS, -1).permute(1, 2, 0)
        maps = [
            part.reshape(HEADS, -1, *size)
            for part, size in zip(
                torch.split(values, [h * w for h, w in sizes], 2), sizes, strict=True
            )
        ]
        pieces = [
            self._sample(
                maps,
                references[first : first + PIECE],
                offsets[first : first + PIECE],
                weights[first : first + PIECE],
            )
            for first in range(0, count, PIECE)
        ]
        found = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
        out: Tensor = self.output_proj(found.permute(2, 0, 1).reshape(1, count, -1))
        return out

    @staticmethod
    def _sample(maps: list[Tensor], references: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum over levels and points, ``[heads, C / heads, T]``."""
        total: Tensor | None = None
        for level, part in enumerate(maps):
            extent = torch.tensor(
                [part.shape[3], part.shape[2]], dtype=part.dtype, device=part.device
            )
            place = references[:, None, None] + offsets[:, :, level] / extent
            grid = place.transpose(0, 1) * 2 - 1
            # Point by point: all points at once would hold several times the memory.
            for point in range(POINTS):
                sampled = F.grid_sample(
                    part, grid[:, :, point : point + 1], mode="bilinear", align_corners=False
                )[..., 0]
                found = sampled * weights[:, :, level, point].T[:, None]
                total = found if total is None else total + found
        assert total is not None
        return total


class PixelLayer(nn.Module):
    """Deformable attention and feed-forward, norms after the residuals."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(
        self, tokens: Tensor, code: Tensor, references: Tensor, sizes: list[Size]
    ) -> Tensor:
        """``[1, T, C]`` to the same shape."""
        tokens = self.norm1(tokens + self.self_attn(tokens + code, tokens, references, sizes))
        out: Tensor = self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))
        return out


class PixelEncoder(nn.Module):
    """The layers, under their published name."""

    def __init__(self, sizes: PixelSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PixelLayer(sizes.width, sizes.inner) for _ in range(sizes.layers)
        )


class PixelTransformer(nn.Module):
    """Level vectors and encoder, under their published names."""

    def __init__(self, sizes: PixelSizes) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.zeros(LEVELS, sizes.width))
        self.encoder = PixelEncoder(sizes)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Maps ``[1, C, h, w]``, coarsest first, to maps of the same shapes."""
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        tokens = torch.cat([to_tokens(level) for level in levels], dim=1)
        codes = [
            position_code(*size, tokens.shape[2], device=tokens.device) + vector
            for size, vector in zip(sizes, self.level_embed, strict=True)
        ]
        references = torch.cat([_centres(*size, device=tokens.device) for size in sizes])
        code = torch.cat(codes, dim=1)
        for layer in self.encoder.layers:
            tokens = layer(tokens, code, references, sizes)
        parts = torch.split(tokens, [h * w for h, w in sizes], dim=1)
        return [to_map(part, size) for part, size in zip(parts, sizes, strict=True)]


def _centres(height: int, width: int, *, device: torch.device) -> Tensor:
    """Pixel centres ``[height * width, 2]``, x and y from 0 to 1."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)
    return grid.reshape(-1, 2)


class ConvGroupNorm(nn.Conv2d):
    """Convolution without bias and group norm, the norm below the convolution's name."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels_out, eps=NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` to ``[n, C', h, w]``."""
        out: Tensor = self.norm(super().forward(maps))
        return out


class PixelDecoder(nn.Module):
    """Encoder maps to mask features at 1/4 and memories at 1/32, 1/16, 1/8."""

    def __init__(self, sizes: PixelSizes, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.input_proj = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, sizes.width, 1),
                nn.GroupNorm(GROUPS, sizes.width, eps=NORM_EPS),
            )
            for width in reversed(widths[1:])
        )
        self.transformer = PixelTransformer(sizes)
        self.adapter_1 = ConvGroupNorm(widths[0], sizes.width, 1)
        self.layer_1 = ConvGroupNorm(sizes.width, sizes.width, 3)
        self.mask_features = nn.Conv2d(sizes.width, sizes.mask_width, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mask features ``[1, D, H/4, W/4]`` and three memories, coarsest first."""
        levels = [
            project(level) for project, level in zip(self.input_proj, maps[:0:-1], strict=True)
        ]
        memories = self.transformer(levels)
        size = (maps[0].shape[2], maps[0].shape[3])
        finest = self.adapter_1(maps[0]) + upsample(memories[-1], size)
        return self.mask_features(F.relu(self.layer_1(finest))), memories

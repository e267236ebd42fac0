"""The all-MLP decoder of SegFormer (arXiv 2105.15203 section 3.2), as published and folded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.export.step import upsample

BATCH_NORM_EPS = 1e-5


class LevelProjection(nn.Module):
    """Linear layer over the channels of a map."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, embed_dim)

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` to ``[n, E, h, w]``."""
        return F.conv2d(maps, self.proj.weight[:, :, None, None], self.proj.bias)


class Fuse(nn.Module):
    """1x1 convolution, batch norm, ReLU."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, embed_dim, 1, bias=False)
        self.bn = nn.BatchNorm2d(embed_dim, eps=BATCH_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` to ``[n, E, h, w]``."""
        return F.relu(self.bn(self.conv(maps)))


class MLPDecoder(nn.Module):
    """Four encoder maps to one map ``[n, E, H/4, W/4]``; key names as published."""

    def __init__(self, widths: tuple[int, ...], embed_dim: int) -> None:
        super().__init__()
        for level, width in enumerate(widths, start=1):
            setattr(self, f"linear_c{level}", LevelProjection(width, embed_dim))
        self.linear_fuse = Fuse(4 * embed_dim, embed_dim)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Project, resize to the finest level, concatenate coarsest first, fuse."""
        size = (maps[0].shape[2], maps[0].shape[3])
        levels = [
            upsample(self.get_submodule(f"linear_c{level}")(maps[level - 1]), size)
            for level in (4, 3, 2, 1)
        ]
        fused: Tensor = self.linear_fuse(torch.cat(levels, dim=1))
        return fused


class ConvolutionalDecoder(nn.Module):
    """mmsegmentation's own form: convolution, norm and ReLU on each level, then resizing.

    ReLU before resizing keeps the layers from being collapsed.
    """

    def __init__(self, widths: tuple[int, ...], embed_dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Fuse(width, embed_dim) for width in widths)
        self.fusion_conv = Fuse(len(widths) * embed_dim, embed_dim)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Convolve, resize to the finest level, concatenate finest first, fuse."""
        size = (maps[0].shape[2], maps[0].shape[3])
        levels = [
            upsample(convert(level), size) for convert, level in zip(self.convs, maps, strict=True)
        ]
        fused: Tensor = self.fusion_conv(torch.cat(levels, dim=1))
        return fused


class FoldedMLPDecoder(nn.Module):
    """``MLPDecoder`` in evaluation mode with its linear layers collapsed.

    Resizing is linear and keeps constants, so each level's projection, its slice of the fuse
    convolution and the batch norm are one 1x1 convolution at the level's own resolution.
    """

    def __init__(self, decoder: MLPDecoder) -> None:
        super().__init__()
        fuse = decoder.linear_fuse
        mean, variance = fuse.bn.running_mean, fuse.bn.running_var
        assert mean is not None
        assert variance is not None
        gain = fuse.bn.weight / torch.sqrt(variance + fuse.bn.eps)
        offset = fuse.bn.bias - mean * gain
        embed_dim = fuse.conv.out_channels
        slices = torch.split(fuse.conv.weight.flatten(1), embed_dim, dim=1)
        self.levels = nn.ModuleList()
        for level, part in zip((4, 3, 2, 1), slices, strict=True):
            proj = decoder.get_submodule(f"linear_c{level}.proj")
            assert isinstance(proj, nn.Linear)
            folded = nn.Conv2d(proj.in_features, embed_dim, 1, bias=level == 1)
            folded.weight.data = (gain[:, None] * (part @ proj.weight))[:, :, None, None].detach()
            offset = offset + gain * (part @ proj.bias)
            if level == 1 and folded.bias is not None:
                folded.bias.data = offset.detach()
            self.levels.insert(0, folded)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The same map as ``MLPDecoder``."""
        size = (maps[0].shape[2], maps[0].shape[3])
        total = self.levels[0](maps[0])
        for level, encoded in zip(self.levels[1:], maps[1:], strict=True):
            total = total + upsample(level(encoded), size)
        return F.relu(total)

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
        slices, offset = _fold(decoder.linear_fuse, 4)
        folded = []
        for level, part in zip((4, 3, 2, 1), slices, strict=True):
            proj = decoder.get_submodule(f"linear_c{level}.proj")
            assert isinstance(proj, nn.Linear)
            offset = offset + part @ proj.bias
            folded.append(part @ proj.weight)
        self.levels = _convolutions(folded[::-1], offset)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The same map as ``MLPDecoder``."""
        return _sum_of_levels(self.levels, maps)


class FoldedConvolutionalDecoder(nn.Module):
    """``ConvolutionalDecoder`` in evaluation mode, without its concatenation.

    As above, each level's slice of the fusing convolution runs at the level's own resolution.
    """

    def __init__(self, decoder: ConvolutionalDecoder) -> None:
        super().__init__()
        self.convs = decoder.convs
        self.levels = _convolutions(*_fold(decoder.fusion_conv, len(decoder.convs)))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The same map as ``ConvolutionalDecoder``."""
        converted = [convert(level) for convert, level in zip(self.convs, maps, strict=True)]
        return _sum_of_levels(self.levels, converted)


def _fold(fuse: Fuse, count: int) -> tuple[list[Tensor], Tensor]:
    """Weights ``[E, E]`` of so many slices, and the bias, with the batch norm in them."""
    mean, variance = fuse.bn.running_mean, fuse.bn.running_var
    assert mean is not None
    assert variance is not None
    gain = fuse.bn.weight / torch.sqrt(variance + fuse.bn.eps)
    weight = gain[:, None] * fuse.conv.weight.flatten(1)
    return list(weight.chunk(count, dim=1)), fuse.bn.bias - mean * gain


def _convolutions(weights: list[Tensor], offset: Tensor) -> nn.ModuleList:
    """1x1 convolutions, finest level first; that one has the bias."""
    levels = nn.ModuleList()
    for level, weight in enumerate(weights):
        made = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=level == 0)
        made.weight.data = weight[:, :, None, None].detach()
        if made.bias is not None:
            made.bias.data = offset.detach()
        levels.append(made)
    return levels


def _sum_of_levels(levels: nn.ModuleList, maps: list[Tensor]) -> Tensor:
    """Convolved maps at the finest one's size, added and cut at zero.

    The finest comes last: runtimes add and cut in the pass of its convolution.
    """
    size = (maps[0].shape[2], maps[0].shape[3])
    coarse = [
        upsample(convolve(level), size)
        for convolve, level in zip(levels[1:], maps[1:], strict=True)
    ]
    total = coarse[0]
    for level in coarse[1:]:
        total = total + level
    return F.relu(total + levels[0](maps[0]))

"""UPerNet (arXiv 1807.10221) frame by frame: pyramid pooling and an FPN over Swin or ConvNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap, below, count_entries, same_names
from streamseg.export.models.encoder import (
    EncoderConfig,
    build_encoder,
    encoder_keys,
    infer_encoder,
)
from streamseg.export.palettes import read_classes
from streamseg.export.settings import Known, read_whole_numbers, setting
from streamseg.export.step import InputConfig, Size, StepModel, refuse_size, upsample
from streamseg.runtime.bundle.state import StateSpec

BATCH_NORM_EPS = 1e-5
POOL_SCALES = (1, 2, 3, 6)


def _read_scales(value: Any) -> tuple[int, ...]:
    scales = read_whole_numbers(value)
    if not scales or min(scales) < 1:
        raise ValueError("whole numbers of at least 1")
    return scales


@dataclass(frozen=True)
class UPerNetConfig(InputConfig):
    """Sizes of a UPerNet: ``width`` of its head, and the cells of its pooled maps."""

    encoder: EncoderConfig
    width: int
    num_classes: int
    pool_scales: tuple[int, ...] = field(
        default=POOL_SCALES,
        kw_only=True,
        metadata=setting(
            "cells of the pooled maps, in height and width",
            expected="whole numbers such as 1,2,3,6",
            read=_read_scales,
        ),
    )


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` to ``[n, C', h, w]``."""
        return F.relu(self.bn(self.conv(maps)))


class UPerHead(nn.Module):
    """Pyramid pooling on the coarsest map, an FPN over all, a classifier; published key names."""

    def __init__(self, config: UPerNetConfig, widths: tuple[int, ...]) -> None:
        super().__init__()
        width = config.width
        self.scales = config.pool_scales
        # Index 0 of every published branch is its pooling.
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.Identity(), ConvUnit(widths[-1], width, 1)) for _ in self.scales
        )
        self.bottleneck = ConvUnit(widths[-1] + len(self.scales) * width, width, 3)
        self.lateral_convs = nn.ModuleList(ConvUnit(before, width, 1) for before in widths[:-1])
        self.fpn_convs = nn.ModuleList(ConvUnit(width, width, 3) for _ in widths[:-1])
        self.fpn_bottleneck = ConvUnit(len(widths) * width, width, 3)
        self.conv_seg = nn.Conv2d(width, config.num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Encoder maps, finest first, to scores ``[n, K, H/4, W/4]``."""
        levels = [convert(one) for convert, one in zip(self.lateral_convs, maps, strict=False)]
        levels.append(self._pool(maps[-1]))
        for finer in range(len(levels) - 2, -1, -1):
            levels[finer] = levels[finer] + upsample(levels[finer + 1], _extent(levels[finer]))
        smooth = [convert(one) for convert, one in zip(self.fpn_convs, levels, strict=False)]
        size = _extent(levels[0])
        joined = torch.cat([upsample(one, size) for one in (*smooth, levels[-1])], dim=1)
        scores: Tensor = self.conv_seg(self.fpn_bottleneck(joined))
        return scores

    def _pool(self, coarsest: Tensor) -> Tensor:
        size = _extent(coarsest)
        pooled = [
            upsample(branch(average_cells(coarsest, scale)), size)
            for scale, branch in zip(self.scales, self.psp_modules, strict=True)
        ]
        out: Tensor = self.bottleneck(torch.cat([coarsest, *pooled], dim=1))
        return out


def average_cells(maps: Tensor, cells: int) -> Tensor:
    """Adaptive average pooling to ``[n, C, cells, cells]`` as two products with constants.

    Cells that do not divide the map overlap; ONNX has no operator for them.
    """
    rows = _cell_weights(maps.shape[2], cells).to(maps)
    columns = _cell_weights(maps.shape[3], cells).to(maps)
    return rows @ maps @ columns.T


def _cell_weights(extent: int, cells: int) -> Tensor:
    weights = torch.zeros(cells, extent)
    for cell in range(cells):
        first, last = cell * extent // cells, -(-(cell + 1) * extent // cells)
        weights[cell, first:last] = 1 / (last - first)
    return weights


def _extent(maps: Tensor) -> Size:
    return (maps.shape[2], maps.shape[3])


class UPerNet(StepModel):
    """UPerNet as a step without state."""

    family = "upernet"

    def __init__(self, config: UPerNetConfig) -> None:
        super().__init__(config)
        self.config = config
        self.classes = read_classes({}, config.num_classes)
        self.backbone = build_encoder(config.encoder)
        self.decode_head = UPerHead(config, self.backbone.widths)
        self.eval()

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.config.num_classes

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:  # noqa: ARG002
        """No state."""
        return ()

    def check_size(self, size: Size) -> list[str]:
        """Refuse sizes that leave an encoder stage without a cell."""
        least = self.backbone.min_extent
        if min(size) < least:
            name = self.config.encoder.name
            raise refuse_size(size, f"encoder {name} needs at least {least}x{least}")
        return []

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        return {
            "family": self.family,
            "encoder": self.config.encoder.name,
            "width": self.config.width,
            "pool_scales": list(self.config.pool_scales),
            "classes": self.num_classes,
        }

    def published_keys(self) -> Mapping[str, KeyMap]:
        """Key maps of the encoder and of the head."""
        return {
            "backbone.": encoder_keys(self.config.encoder),
            "decode_head.": same_names(self.decode_head),
        }

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The head's output ``[1, K, h, w]``."""
        return (self.decode_head(self.backbone(self.normalise(frame))),)


def infer_upernet(weights: Mapping[str, Tensor], settings: Known) -> UPerNetConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    head = below(weights, "decode_head.")
    needed = ("conv_seg.weight", "fpn_bottleneck.conv.weight", "bottleneck.conv.weight")
    missing = [f"decode_head.{name}" for name in needed if name not in head]
    if missing:
        raise CheckpointError(f"it lacks {', '.join(missing)}, which every UPerNet head has")
    branches, scales = count_entries(head, "psp_modules."), settings["pool_scales"]
    if branches != len(scales):
        raise CheckpointError(
            f"pool_scales has {len(scales)} numbers, but the head has {branches} pooled branches"
        )
    return UPerNetConfig(
        encoder=infer_encoder(below(weights, "backbone."), settings),
        width=head["conv_seg.weight"].shape[1],
        num_classes=head["conv_seg.weight"].shape[0],
        pool_scales=scales,
        mean=settings["mean"],
        std=settings["std"],
    )

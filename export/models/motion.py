"""MPVSS's motion network (NeurIPS 2023): one flow per mask query from the key frame to this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.export.formats.key_map import count_entries
from streamseg.export.models.attention import (
    NORM_EPS,
    FeedForwardLayer,
    Perceptron,
    SelfAttentionLayer,
    position_code,
    to_map,
    to_tokens,
)
from streamseg.export.step import upsample

WIDTH = 256
SLOPE = 0.1
STAGES = 6
LEVELS = 3
# Queries warped at once: bounds the memory of their sampling grids.
WARP_QUERIES = 10


@dataclass(frozen=True)
class MotionSizes:
    """Sizes of the motion network.

    ``stages`` has (channels, kernel) of every convolution of the six encoder stages.
    """

    stages: tuple[tuple[tuple[int, int], ...], ...] = (
        ((64, 7),),
        ((128, 5),),
        ((256, 5), (256, 3)),
        ((512, 3), (512, 3)),
        ((512, 3), (512, 3)),
        ((1024, 3), (1024, 3)),
    )
    layers: int = 9
    inner: int = 2048
    queries: int = 100

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each stage."""
        return tuple(stage[-1][0] for stage in self.stages)


class NamedConv(nn.Module):
    """A convolution under the name ``conv``."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, maps: Tensor) -> Tensor:
        """What the convolution gives."""
        out: Tensor = self.conv(maps)
        return out


class MotionEncoder(nn.Module):
    """FlowNetS encoder (arXiv 1504.06852) over a pair of frames."""

    def __init__(self, sizes: MotionSizes) -> None:
        super().__init__()
        before = 6
        for index, stage in enumerate(sizes.stages, start=1):
            convs = []
            for position, (after, kernel) in enumerate(stage):
                stride = 1 if position else 2
                conv = nn.Conv2d(before, after, kernel, stride, padding=(kernel - 1) // 2)
                convs.append(NamedConv(conv))
                before = after
            setattr(self, f"conv{index}", nn.Sequential(*convs))

    def forward(self, pair: Tensor) -> list[Tensor]:
        """``[1, 6, H/2, W/2]`` to the maps of stages 2 to 6."""
        maps = []
        for index in range(1, STAGES + 1):
            stage = self.get_submodule(f"conv{index}")
            assert isinstance(stage, nn.Sequential)
            for conv in stage:
                pair = F.leaky_relu(conv(pair), SLOPE)
            maps.append(pair)
        return maps[1:]


class MotionDecoder(nn.Module):
    """Queries and motion tokens exchange; a pixel flow and query flows make one flow a query."""

    def __init__(self, sizes: MotionSizes) -> None:
        super().__init__()
        widths = sizes.widths
        self.input_proj = nn.ModuleList(
            nn.Identity() if width == WIDTH else nn.Conv2d(width, WIDTH, 1)
            for width in widths[:2:-1]
        )
        self.level_embed = nn.Embedding(LEVELS, WIDTH)
        self.query_embed = nn.Embedding(sizes.queries, WIDTH)
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(WIDTH) for _ in range(sizes.layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(WIDTH, sizes.inner) for _ in range(sizes.layers)
        )
        self.decoder_norm = nn.LayerNorm(WIDTH, eps=NORM_EPS)
        self.output_head = Perceptron(WIDTH, 512, 512, WIDTH)
        self.scale_layer = Perceptron(widths[1], 512, 512, 2 * WIDTH)
        before = WIDTH
        for level, skip in zip((5, 4, 3, 2), (WIDTH, WIDTH, widths[2], widths[1]), strict=True):
            after = 64 if level == 2 else 128
            setattr(self, f"predict_flow{level + 1}", _flow_conv(before))
            setattr(self, f"upsample_flow{level}", _doubling(2, 2))
            setattr(self, f"deconv{level}", _doubling(before, after))
            before = skip + after + 2
        self.predict_flow = _flow_conv(before)
        self.fuse_layer = NamedConv(nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, maps: list[Tensor], query: Tensor) -> Tensor:
        """Maps of stages 2 to 6 and the key frame's queries ``[1, Q, 256]`` to ``[Q, 2, h, w]``."""
        query, levels = self._exchange(query, maps[:1:-1])
        pixel_flow = self._refine([*levels, maps[1], maps[0]])
        query_flow = self._match(query, maps[0])
        pixel_flow = pixel_flow.expand(query_flow.shape[0], -1, -1, -1)
        fused: Tensor = self.fuse_layer(torch.cat([pixel_flow, query_flow], dim=1))
        return fused

    def _exchange(self, query: Tensor, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Queries and updated maps of stages 6, 5, 4; codes stay in the residual stream."""
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        levels = [
            to_tokens(project(level)) + vector
            for project, level, vector in zip(
                self.input_proj, maps, self.level_embed.weight, strict=True
            )
        ]
        count = query.shape[1]
        layers = zip(
            self.transformer_self_attention_layers, self.transformer_ffn_layers, strict=True
        )
        for index, (attend, feed) in enumerate(layers):
            level = index % LEVELS
            code = position_code(*sizes[level], WIDTH, device=query.device)
            tokens = torch.cat([query + self.query_embed.weight, levels[level] + code], dim=1)
            tokens = feed(attend(tokens))
            query, levels[level] = tokens[:, :count], tokens[:, count:]
        return query, [to_map(level, size) for level, size in zip(levels, sizes, strict=True)]

    def _refine(self, maps: list[Tensor]) -> Tensor:
        """Maps, coarsest first, to the pixel flow ``[1, 2, h, w]`` of the finest."""
        features = maps[0]
        for level, skip in zip((5, 4, 3, 2), maps[1:], strict=True):
            height, width = skip.shape[2], skip.shape[3]
            flow = self.get_submodule(f"predict_flow{level + 1}")(features)
            flow = self.get_submodule(f"upsample_flow{level}")(flow)[:, :, :height, :width]
            raised = F.leaky_relu(self.get_submodule(f"deconv{level}")(features), SLOPE)
            features = torch.cat([skip, raised[:, :, :height, :width], flow], dim=1)
        out: Tensor = self.predict_flow(features)
        return out

    def _match(self, query: Tensor, maps: Tensor) -> Tensor:
        """Dot products of queries with a motion map: ``[Q, 2, h, w]``, x from its upper half."""
        embedded = self.output_head(self.decoder_norm(query))[0]
        *before, last = self.scale_layer.layers
        assert isinstance(last, nn.Linear)
        hidden = to_tokens(maps)[0]
        for layer in before:
            hidden = F.relu(layer(hidden))
        size = (maps.shape[2], maps.shape[3])
        # Halves of weights, not of the product: TensorRT-RTX 1.7 cannot build the latter.
        flows = [
            embedded @ F.linear(hidden, last.weight[at], last.bias[at]).T
            for at in (slice(WIDTH, None), slice(WIDTH))
        ]
        return torch.stack([flow.reshape(-1, *size) for flow in flows], dim=1)


def _flow_conv(channels: int) -> NamedConv:
    return NamedConv(nn.Conv2d(channels, 2, 3, padding=1, bias=False))


def _doubling(before: int, after: int) -> NamedConv:
    return NamedConv(nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False))


class Motion(nn.Module):
    """Encoder and decoder, under their published names."""

    def __init__(self, sizes: MotionSizes) -> None:
        super().__init__()
        self.encoder = MotionEncoder(sizes)
        self.decoder = MotionDecoder(sizes)

    def forward(self, pair: Tensor, query: Tensor) -> Tensor:
        """``[1, 6, H/2, W/2]`` (current, key) and ``[1, Q, 256]`` to flows ``[Q, 2, H/8, W/8]``."""
        flow: Tensor = self.decoder(self.encoder(pair), query)
        return flow


def warp(masks: Tensor, flow: Tensor) -> Tensor:
    """Key masks ``[1, Q, h, w]`` moved by ``flow [Q, 2, h/2, w/2]`` (x, y in its own pixels).

    Positions are normalised by the size but sampled with corner alignment, as published: a zero
    flow shrinks coordinates by (size - 1) / size.
    """
    parts = [
        _warp_queries(masks[:, first : first + WARP_QUERIES], flow[first : first + WARP_QUERIES])
        for first in range(0, flow.shape[0], WARP_QUERIES)
    ]
    return torch.cat(parts, dim=1)


def _warp_queries(masks: Tensor, flow: Tensor) -> Tensor:
    height, width = masks.shape[2], masks.shape[3]
    flow = upsample(flow, (height, width)) * 2
    x = (flow[:, 0] + torch.arange(width, dtype=flow.dtype, device=flow.device)) / width * 2 - 1
    y = (
        flow[:, 1] + torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    ) / height * 2 - 1
    grid = torch.stack([x, y], dim=3)
    moved = F.grid_sample(
        masks.transpose(0, 1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return moved.transpose(0, 1)


def infer_motion(weights: Mapping[str, Tensor]) -> MotionSizes:
    """Read the sizes off tensor names and shapes (keys without ``motion.``)."""
    stages = []
    for index in range(1, STAGES + 1):
        count = count_entries(weights, f"encoder.conv{index}.")
        shapes = [weights[f"encoder.conv{index}.{j}.conv.weight"].shape for j in range(count)]
        stages.append(tuple((shape[0], shape[2]) for shape in shapes))
    return MotionSizes(
        stages=tuple(stages),
        layers=count_entries(weights, "decoder.transformer_ffn_layers."),
        inner=weights["decoder.transformer_ffn_layers.0.linear1.weight"].shape[0],
        queries=weights["decoder.query_embed.weight"].shape[0],
    )

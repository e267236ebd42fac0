"""Mask2Former (arXiv 2112.01527) frame by frame: queries, each a class and a mask."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import CheckpointError, ExportError
from streamseg.export.formats.key_map import KeyMap, below, count_entries, same_names
from streamseg.export.models.attention import (
    NORM_EPS,
    CrossAttentionLayer,
    FeedForwardLayer,
    Perceptron,
    SelfAttentionLayer,
    position_code,
    to_tokens,
)
from streamseg.export.models.pixels import LEVELS, PixelDecoder, PixelSizes
from streamseg.export.models.resnet import ResNetEncoder, ResNetSizes, infer_resnet
from streamseg.export.models.swin import SwinEncoder, SwinSizes, infer_swin, swin_keys
from streamseg.export.palettes import read_classes
from streamseg.export.settings import Known
from streamseg.export.step import InputConfig, Size, StepModel, refuse_size, upsample
from streamseg.runtime.bundle.state import StateSpec

STRIDE = 32
MASK_STRIDE = 4
# Added to the logits of blocked places: exp of it is 0, and half precision holds it.
BLOCKED = -1e4
# Elements of one strip of full-size masks; its buffers are a few times this.
STRIP_ELEMENTS = 8 << 20

MaskEncoderConfig = ResNetSizes | SwinSizes


@dataclass(frozen=True)
class Mask2FormerConfig(InputConfig):
    """Sizes of a Mask2Former: ``layers`` of the decoder, ``inner`` of its feed-forward layers."""

    encoder: MaskEncoderConfig
    num_classes: int
    pixels: PixelSizes = field(default_factory=PixelSizes)
    width: int = 256
    layers: int = 9
    inner: int = 2048
    queries: int = 100


@dataclass(frozen=True)
class MaskPrediction:
    """What the decoder predicts for its queries.

    Attributes:
        masks: logits ``[1, Q, H/4, W/4]`` of the padded frame.
        classes: probabilities ``[1, Q, K]``, "no object" left out.
        query: normed query features ``[1, Q, C]``.
    """

    masks: Tensor
    classes: Tensor
    query: Tensor


class MaskDecoder(nn.Module):
    """Masked-attention decoder; published key names."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        width, memory = config.width, config.pixels.width
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(width) for _ in range(config.layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(width) for _ in range(config.layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(width, config.inner) for _ in range(config.layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.query_feat = nn.Embedding(config.queries, width)
        self.query_embed = nn.Embedding(config.queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.input_proj = nn.ModuleList(
            nn.Identity() if memory == width else nn.Conv2d(memory, width, 1) for _ in range(LEVELS)
        )
        self.class_embed = nn.Linear(width, config.num_classes + 1)
        self.mask_embed = Perceptron(width, width, width, config.pixels.mask_width)

    def forward(
        self,
        features: Tensor,
        memories: list[Tensor],
        *,
        every: list[tuple[Tensor, Tensor]] | None = None,
    ) -> MaskPrediction:
        """Mask features ``[1, D, h, w]`` and three memories, coarsest first.

        ``every`` takes in the normed queries and masks before and after each layer, for training.
        """
        sizes = [(memory.shape[2], memory.shape[3]) for memory in memories]
        levels = [
            to_tokens(project(memory)) + vector
            for project, memory, vector in zip(
                self.input_proj, memories, self.level_embed.weight, strict=True
            )
        ]
        query, position = self.query_feat.weight[None], self.query_embed.weight[None]
        codes = [position_code(*size, query.shape[2], device=query.device) for size in sizes]
        masks = self._masks(query, features)
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (look, exchange, feed) in enumerate(layers):
            level = index % LEVELS
            if every is not None:
                every.append((self.decoder_norm(query), masks))
            bias = attention_bias(masks, sizes[level])
            query = look(query, position, levels[level], codes[level], bias)
            query = feed(exchange(query, position))
            masks = self._masks(query, features)
        query = self.decoder_norm(query)
        if every is not None:
            every.append((query, masks))
        classes = self.class_embed(query).softmax(dim=-1)[:, :, :-1]
        return MaskPrediction(masks, classes, query)

    def _masks(self, query: Tensor, features: Tensor) -> Tensor:
        embedded = self.mask_embed(self.decoder_norm(query))
        masks: Tensor = embedded @ features.flatten(2)
        return masks.reshape(1, -1, features.shape[2], features.shape[3])


def attention_bias(masks: Tensor, size: Size) -> Tensor:
    """Where queries may look, from mask logits: 0 or ``BLOCKED``, ``[1, Q, h*w]``.

    A query that is blocked everywhere may look everywhere.
    """
    allowed = (upsample(masks, size).flatten(2) >= 0).to(masks.dtype)
    nowhere = 1 - allowed.amax(dim=2, keepdim=True)
    return (1 - torch.maximum(allowed, nowhere)) * BLOCKED


class MaskHead(nn.Module):
    """Pixel decoder and mask decoder, under their published names."""

    def __init__(self, config: Mask2FormerConfig, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(config.pixels, widths)
        self.predictor = MaskDecoder(config)


class MaskModel(StepModel):
    """A system whose output is masks and classes of queries."""

    config: Mask2FormerConfig
    backbone: ResNetEncoder | SwinEncoder

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.config.num_classes

    @abstractmethod
    def predict(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Mask logits ``[1, Q, h, w]``, class probabilities ``[1, Q, K]``, then states written."""

    def check_size(self, size: Size) -> list[str]:
        """Refuse sizes under one cell of the coarsest map; others are padded."""
        if min(size) < STRIDE:
            raise refuse_size(size, f"{self.family} needs at least {STRIDE}x{STRIDE}")
        return []

    def padded_size(self, size: Size) -> Size:
        """The size rounded up to multiples of 32: zeros go at the bottom and on the right."""
        return (-(-size[0] // STRIDE) * STRIDE, -(-size[1] // STRIDE) * STRIDE)

    def run_graph(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See ``StepModel.run_graph``; scores are at the frame's size."""
        masks, classes, *written = self.predict(graph, frame, *inputs)
        strips = score_strips(masks, classes, (frame.shape[1], frame.shape[2]))
        return (torch.cat(strips, dim=2), *written)

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The first graph's scores and states."""
        return self.run_graph(
            next(iter(self.graphs((frame.shape[1], frame.shape[2])))), frame, *state
        )

    def segment(
        self, graph: str, frame: Tensor, *inputs: Tensor, logits: bool = False
    ) -> tuple[Tensor, ...]:
        """See ``StepModel.segment``; works strip by strip, so that memory stays bounded."""
        masks, classes, *written = self.predict(graph, frame, *inputs)
        strips = score_strips(masks, classes, (frame.shape[1], frame.shape[2]))
        labels = torch.cat([strip.argmax(dim=1).to(torch.uint8) for strip in strips], dim=1)
        return (labels, *((torch.cat(strips, dim=2),) if logits else ()), *written)


class Mask2Former(MaskModel):
    """Mask2Former as a step without state."""

    family = "mask2former"

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        self.config = config
        self.classes = read_classes({}, config.num_classes)
        encoder = config.encoder
        self.backbone = (
            ResNetEncoder(encoder) if isinstance(encoder, ResNetSizes) else SwinEncoder(encoder)
        )
        self.sem_seg_head = MaskHead(config, self.backbone.widths)
        self.eval()

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:  # noqa: ARG002
        """No state."""
        return ()

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        return {
            "family": self.family,
            "encoder": self.config.encoder.name,
            "queries": self.config.queries,
            "decoder_layers": self.config.layers,
            "classes": self.num_classes,
        }

    def published_keys(self) -> Mapping[str, KeyMap]:
        """Key maps of the encoder and of the head."""
        encoder = self.config.encoder
        return {
            "backbone.": swin_keys(encoder)
            if isinstance(encoder, SwinSizes)
            else same_names(self.backbone),
            "sem_seg_head.": same_names(self.sem_seg_head),
        }

    def detect(
        self, frame: Tensor, *, every: list[tuple[Tensor, Tensor]] | None = None
    ) -> MaskPrediction:
        """Masks, classes and queries of uint8 ``[1, H, W, 3]``; ``every``: see ``MaskDecoder``."""
        image = self.normalise(frame)
        height, width = self.padded_size((frame.shape[1], frame.shape[2]))
        image = F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]))
        features, memories = self.sem_seg_head.pixel_decoder(self.backbone(image))
        prediction: MaskPrediction = self.sem_seg_head.predictor(features, memories, every=every)
        return prediction

    def predict(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Masks and classes."""
        if graph != "step":
            raise ExportError(f"{self.family} has no graph '{graph}'")
        found = self.detect(frame)
        return (found.masks, found.classes)


def score_strips(masks: Tensor, classes: Tensor, size: Size) -> list[Tensor]:
    """Score map in strips of rows: class probability times mask probability, summed over queries.

    Args:
        masks: logits ``[1, Q, h, w]`` of the padded frame at 1/4.
        classes: ``[1, Q, K]``.
        size: (H, W) of the frame.
    Returns:
        ``[1, K, rows, W]`` each, from top to bottom. Upsampling needs one neighbouring row, so
        each strip takes one more on either side and the result is the whole map's.
    """
    _, queries, rows, columns = masks.shape
    by = MASK_STRIDE
    step = max(4, STRIP_ELEMENTS // (queries * columns * by * by))
    strips = []
    for first in range(0, rows, step):
        last = min(first + step, rows)
        low, high = max(first - 1, 0), min(last + 1, rows)
        full = upsample(masks[:, :, low:high], ((high - low) * by, columns * by))
        end = min(last * by, size[0]) - low * by
        cut = full[:, :, (first - low) * by : end, : size[1]].sigmoid()
        if cut.shape[2] > 0:
            scores = classes.transpose(1, 2) @ cut.flatten(2)
            strips.append(scores.reshape(1, -1, cut.shape[2], cut.shape[3]))
    return strips


def infer_mask2former(weights: Mapping[str, Tensor], settings: Known) -> Mask2FormerConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    encoder = below(weights, "backbone.")
    pixels = below(weights, "sem_seg_head.pixel_decoder.")
    decoder = below(weights, "sem_seg_head.predictor.")
    needed = {
        "sem_seg_head.pixel_decoder.": (pixels, "mask_features.weight"),
        "sem_seg_head.predictor.": (decoder, "class_embed.weight"),
    }
    missing = [prefix + key for prefix, (part, key) in needed.items() if key not in part]
    layers = count_entries(pixels, "transformer.encoder.layers.")
    if missing or layers == 0:
        raise CheckpointError(
            "incomplete Mask2Former checkpoint: it lacks "
            f"{', '.join(missing) or 'the pixel decoder'}"
        )
    mask_width, width = pixels["mask_features.weight"].shape[:2]
    return Mask2FormerConfig(
        encoder=infer_resnet(encoder) if "stem.conv1.weight" in encoder else infer_swin(encoder),
        num_classes=decoder["class_embed.weight"].shape[0] - 1,
        pixels=PixelSizes(
            width=width,
            mask_width=mask_width,
            layers=layers,
            inner=pixels["transformer.encoder.layers.0.linear1.weight"].shape[0],
        ),
        width=decoder["class_embed.weight"].shape[1],
        layers=count_entries(decoder, "transformer_ffn_layers."),
        inner=decoder["transformer_ffn_layers.0.linear1.weight"].shape[0],
        queries=decoder["query_feat.weight"].shape[0],
        mean=settings["mean"],
        std=settings["std"],
    )

"""SegFormer (arXiv 2105.15203): a MiT or Swin encoder and the MLP decoder, frame by frame."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap, below, same_names
from streamseg.export.models.decoder import (
    ConvolutionalDecoder,
    FoldedConvolutionalDecoder,
    FoldedMLPDecoder,
    MLPDecoder,
)
from streamseg.export.models.encoder import (
    EncoderConfig,
    build_encoder,
    check_encoder_size,
    describe_encoder,
    encoder_keys,
    infer_encoder,
    patch_of,
)
from streamseg.export.palettes import read_classes
from streamseg.export.settings import Known
from streamseg.export.step import InputConfig, Size, StepModel
from streamseg.runtime.bundle.state import StateSpec

Self = TypeVar("Self", bound="SegFormer")


@dataclass(frozen=True)
class SegFormerConfig(InputConfig):
    """Sizes of a SegFormer.

    ``auxiliary_width`` is that of the unused ``conv_seg`` (0: absent). ``convolutional`` is
    mmsegmentation's own head: convolution, norm and ReLU on every level, and ``conv_seg`` as the
    classifier.
    """

    encoder: EncoderConfig
    embed_dim: int
    num_classes: int
    auxiliary_width: int = 128
    convolutional: bool = False


class SegFormerHead(MLPDecoder):
    """Decoder and classifier, with the published key names."""

    def __init__(self, config: SegFormerConfig, widths: tuple[int, ...]) -> None:
        super().__init__(widths, config.embed_dim)
        self.linear_pred = nn.Conv2d(config.embed_dim, config.num_classes, 1)
        if config.auxiliary_width:
            self.conv_seg = nn.Conv2d(config.auxiliary_width, config.num_classes, 1)

    def classify(self, fused: Tensor) -> Tensor:
        """Fused map ``[n, E, h, w]`` to scores ``[n, K, h, w]``."""
        scores: Tensor = self.linear_pred(fused)
        return scores


class ConvolutionalHead(ConvolutionalDecoder):
    """mmsegmentation's SegformerHead, with its key names."""

    def __init__(self, config: SegFormerConfig, widths: tuple[int, ...]) -> None:
        super().__init__(widths, config.embed_dim)
        self.conv_seg = nn.Conv2d(config.embed_dim, config.num_classes, 1)

    def classify(self, fused: Tensor) -> Tensor:
        """Fused map ``[n, E, h, w]`` to scores ``[n, K, h, w]``."""
        scores: Tensor = self.conv_seg(fused)
        return scores


class SegFormer(StepModel):
    """SegFormer as a step without state.

    ``conv_seg`` is kept for checkpoints and does not affect the output.
    """

    family = "segformer"
    decode_head: SegFormerHead | ConvolutionalHead

    def __init__(self, config: SegFormerConfig, *, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.config = config
        self.classes = read_classes({}, config.num_classes)
        self.backbone = build_encoder(config.encoder, drop_path=drop_path)
        self.decode_head = self.build_head(self.backbone.widths)
        self.folded: FoldedMLPDecoder | FoldedConvolutionalDecoder | None = None
        self.eval()

    def build_head(self, widths: tuple[int, ...]) -> SegFormerHead | ConvolutionalHead:
        """The head over encoder maps of these widths; systems built on SegFormer have their own."""
        if self.config.convolutional:
            return ConvolutionalHead(self.config, widths)
        return SegFormerHead(self.config, widths)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.config.num_classes

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:  # noqa: ARG002
        """No state."""
        return ()

    def check_size(self, size: Size) -> list[str]:
        """Refuse sizes that the encoder cannot run at."""
        check_encoder_size(self.backbone, self.config.encoder, size)
        return []

    @property
    def size_step(self) -> Size:
        """Multiples of the encoder's patch, or of a cell of its coarsest map."""
        patch = patch_of(self.config.encoder)
        return (patch, patch) if patch > 1 else super().size_step

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        return {
            "family": self.family,
            **describe_encoder(self.config.encoder),
            "embed_dim": self.config.embed_dim,
            **({"convolutional": True} if self.config.convolutional else {}),
            "classes": self.num_classes,
        }

    def published_keys(self) -> Mapping[str, KeyMap]:
        """Key maps of the encoder and of the head."""
        return {
            "backbone.": encoder_keys(self.config.encoder),
            "decode_head.": same_names(self.decode_head),
        }

    def fuse(self, maps: list[Tensor]) -> Tensor:
        """Encoder maps to the fused map ``[n, E, h, w]``, h = ceil(H/4)."""
        decoder = self.decode_head if self.folded is None else self.folded
        fused: Tensor = decoder(maps)
        return fused

    def encode(self, frames: Tensor) -> Tensor:
        """Per-frame part: uint8 ``[n, H, W, 3]`` to fused maps ``[n, E, h, w]``, h = ceil(H/4)."""
        return self.fuse(self.backbone(self.normalise(frames)))

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The head's output ``[1, K, h, w]``."""
        return (self.decode_head.classify(self.encode(frame)),)

    def fold(self: Self) -> Self:
        """A copy with the decoder's linear layers and batch norm collapsed."""
        folded, head = copy.copy(self), self.decode_head
        # Modules live in a dictionary that a shallow copy shares.
        folded._modules = dict(self._modules)
        if isinstance(head, ConvolutionalHead):
            folded.folded = FoldedConvolutionalDecoder(head).eval()
        else:
            folded.folded = FoldedMLPDecoder(head).eval()
        return folded


def infer_segformer(weights: Mapping[str, Tensor], settings: Known) -> SegFormerConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    head = below(weights, "decode_head.")
    convolutional = "fusion_conv.conv.weight" in head
    needed = ("linear_pred.weight", "linear_fuse.conv.weight")
    if convolutional:
        needed = ("conv_seg.weight", "fusion_conv.conv.weight")
    missing = [f"decode_head.{name}" for name in needed if name not in head]
    if missing:
        raise CheckpointError(f"it lacks {', '.join(missing)}, which every SegFormer head has")
    classifier, fuse = (head[name] for name in needed)
    conv_seg = head.get("conv_seg.weight")
    return SegFormerConfig(
        encoder=infer_encoder(below(weights, "backbone."), settings),
        embed_dim=fuse.shape[0],
        num_classes=classifier.shape[0],
        auxiliary_width=0 if conv_seg is None or convolutional else conv_seg.shape[1],
        convolutional=convolutional,
        mean=settings["mean"],
        std=settings["std"],
    )

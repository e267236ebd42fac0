"""CFFM (arXiv 2207.10436) and CFFM++ (TPAMI 2024) as pure steps.

Encoder and trunk run once per frame. The ring ``features`` keeps the reduced maps of past frames.
CFFM++ adds a branch that attends to ``prototypes``, tokens of the whole video found beforehand:
they are an input (state of kind ``given``), so a live stream takes them from similar footage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import below, count_entries
from streamseg.export.models.clip import ClipModel, ReferenceConfig
from streamseg.export.models.focal import (
    HEADS,
    NORM_EPS,
    REFERENCE_SETS,
    WINDOW,
    FocalDecoder,
    Mlp,
    split_heads,
)
from streamseg.export.models.segformer import SegFormerHead, infer_segformer
from streamseg.export.settings import Known
from streamseg.export.step import Size, upsample
from streamseg.runtime.bundle.claims import format_setting
from streamseg.runtime.bundle.state import StateSpec

PROTOTYPES = 100
PROTOTYPE_WEIGHT = 0.5


@dataclass(frozen=True)
class CFFMConfig(ReferenceConfig):
    """Sizes of a CFFM head over its trunk: ``depth`` mining blocks."""

    depth: int = 1

    def __post_init__(self) -> None:
        if len(self.offsets) != len(REFERENCE_SETS):
            raise CheckpointError(
                f"offsets are {format_setting(self.offsets)}, expected {len(REFERENCE_SETS)}: "
                "the weights pool each reference in a way of its own"
            )


class CFFMHead(SegFormerHead):
    """Trunk, mining blocks and classifiers, with the published key names."""

    def __init__(self, config: CFFMConfig, widths: tuple[int, ...]) -> None:
        super().__init__(config, widths)
        self.decoder_focal = FocalDecoder(config.embed_dim, config.depth)
        self.linear_pred2 = nn.Conv2d(2 * config.embed_dim, config.num_classes, 1)


class CFFM(ClipModel):
    """CFFM as a pure step."""

    family = "cffm"
    config: CFFMConfig
    decode_head: CFFMHead

    def __init__(self, config: CFFMConfig, *, drop_path: float = 0.0) -> None:
        super().__init__(config, drop_path=drop_path)

    def build_head(self, widths: tuple[int, ...]) -> CFFMHead:
        """The CFFM head."""
        return CFFMHead(self.config, widths)

    def map_size(self, size: Size) -> Size:
        """Size of the reduced map."""
        return (-(-size[0] // 4) // 2, -(-size[1] // 4) // 2)

    def ring_names(self) -> tuple[str, ...]:
        """``features``."""
        return ("features",)

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """``features``: slots ``[1, E, h, w]``."""
        shape = (1, self.config.embed_dim, *self.map_size(size))
        return (StateSpec("features", shape, kind="ring", slots=self.config.slots),)

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        return {**super().describe(), "depth": self.config.depth}

    def trunk(self, frame: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """See ``ClipModel.trunk``."""
        maps = self.backbone(self.normalise(frame))
        fused = self.fuse(maps)
        reduced = upsample(fused, (fused.shape[2] // 2, fused.shape[3] // 2))
        return maps, fused, reduced

    def memorise(self, maps: list[Tensor], reduced: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The reduced map."""
        return (reduced,)

    def look_back(
        self,
        maps: list[Tensor],  # noqa: ARG002
        reduced: Tensor,
        references: Sequence[Sequence[Tensor]],
        given: Sequence[Tensor],  # noqa: ARG002
    ) -> Tensor:
        """Mine the references and classify target and mined maps together."""
        past = [reference.permute(0, 2, 3, 1) for reference in references[0]]
        mined = self.decode_head.decoder_focal(reduced.permute(0, 2, 3, 1), past)
        joined = torch.cat([reduced, mined.permute(0, 3, 1, 2)], dim=1)
        scores: Tensor = self.decode_head.linear_pred2(joined)
        return scores


class PrototypeAttention(nn.Module):
    """Every token attends to the prototypes; published key names.

    ``proj``, the position table and the last two thirds of ``qkv`` are in checkpoints and do not
    affect the output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = (width // HEADS) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, HEADS))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.qkv_cluster = nn.Linear(width, 2 * width)
        self.proj_cluster = nn.Linear(width, width)

    def forward(self, tokens: Tensor, prototypes: Tensor) -> Tensor:
        """``[1, T, C]`` and ``[1, P, C]``, both normed, to ``[1, T, C]``."""
        width = tokens.shape[2]
        query = F.linear(tokens, self.qkv.weight[:width], self.qkv.bias[:width])
        key, value = (split_heads(part) for part in self.qkv_cluster(prototypes).chunk(2, dim=2))
        attention = (split_heads(query * self.scale) @ key.transpose(2, 3)).softmax(dim=-1)
        out: Tensor = self.proj_cluster((attention @ value).transpose(1, 2).flatten(2))
        return out


class PrototypeBlock(nn.Module):
    """Norm, attention to prototypes, MLP, each with its residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = PrototypeAttention(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tensor, prototypes: Tensor) -> Tensor:
        """``[1, T, C]`` and ``[1, P, C]`` to ``[1, T, C]``."""
        tokens = tokens + self.attn(self.norm1(tokens), self.norm1(prototypes))
        added: Tensor = self.mlp(self.norm2(tokens))
        return tokens + added


class PrototypeDecoder(nn.Module):
    """The global branch; the published code has one block for every encoder."""

    def __init__(self, width: int, depth: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PrototypeBlock(width) for _ in range(depth))

    def forward(self, maps: Tensor, prototypes: Tensor) -> Tensor:
        """``[1, C, h, w]`` and ``[P, C]`` to ``[1, C, h, w]``."""
        tokens = maps.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, prototypes[None])
        return tokens.transpose(1, 2).reshape(maps.shape)


class CFFMPlusHead(CFFMHead):
    """The CFFM head with the global branch and its classifier."""

    def __init__(self, config: CFFMConfig, widths: tuple[int, ...]) -> None:
        super().__init__(config, widths)
        self.decoder_swin = PrototypeDecoder(config.embed_dim)
        self.linear_pred3 = nn.Conv2d(config.embed_dim, config.num_classes, 1)


class CFFMPlus(CFFM):
    """CFFM++ as a pure step; ``prototypes`` come from outside the video."""

    family = "cffm++"
    decode_head: CFFMPlusHead

    def build_head(self, widths: tuple[int, ...]) -> CFFMPlusHead:
        """The CFFM++ head."""
        return CFFMPlusHead(self.config, widths)

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """``features`` and ``prototypes`` ``[100, E]``."""
        shape = (PROTOTYPES, self.config.embed_dim)
        given = StateSpec("prototypes", shape, init="unset", kind="given")
        return (*super().state_spec(size), given)

    def look_back(
        self,
        maps: list[Tensor],
        reduced: Tensor,
        references: Sequence[Sequence[Tensor]],
        given: Sequence[Tensor],
    ) -> Tensor:
        """CFFM's scores and half of the global branch's."""
        mined = super().look_back(maps, reduced, references, given)
        seen = self.decode_head.decoder_swin(reduced, given[0])
        scores: Tensor = mined + PROTOTYPE_WEIGHT * self.decode_head.linear_pred3(seen)
        return scores


def infer_cffm(weights: Mapping[str, Tensor], settings: Known) -> CFFMConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    trunk = infer_segformer(weights, settings)
    depth = count_entries(below(weights, "decode_head."), "decoder_focal.blocks.")
    if depth == 0:
        raise CheckpointError("it lacks decode_head.decoder_focal.blocks.0.*")
    return CFFMConfig(**vars(trunk), depth=depth, offsets=settings["offsets"])

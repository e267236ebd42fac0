"""MiT encoders (SegFormer, arXiv 2105.15203) on transformers' modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel
from transformers.models.segformer.modeling_segformer import (
    SegformerAttention,
    SegformerSequenceReduction,
)

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap, count_entries
from streamseg.export.settings import read_numbers

HEADS = (1, 2, 5, 8)
# Of the norms in blocks and behind stages, and of those in embeddings and reductions: the
# publication's. transformers has 1e-5 in all, mmsegmentation's own MiT 1e-6.
NORM_EPS = (1e-6, 1e-5)
_STAGE_OR_BLOCK_NORM = re.compile(r"\d+\.(layer_norm|blocks\.\d+\.layernorm_(before|after))")


@dataclass(frozen=True)
class MiTConfig:
    """Sizes of a MiT encoder, a value per stage (strides 4, 8, 16, 32).

    ``norm_eps`` is that of the norms in blocks and behind stages, and that of all others.
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    mlp_ratios: tuple[int, int, int, int] = (4, 4, 4, 4)
    heads: tuple[int, int, int, int] = HEADS
    norm_eps: tuple[float, float] = field(default=NORM_EPS, kw_only=True)

    @property
    def name(self) -> str:
        """Published name, or ``mit`` for other sizes."""
        sizes = replace(self, norm_eps=NORM_EPS)
        found = [name for name, config in MIT_PRESETS.items() if config == sizes]
        return found[0] if found else "mit"


_WIDE = (64, 128, 320, 512)
MIT_PRESETS: dict[str, MiTConfig] = {
    "mit_b0": MiTConfig((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": MiTConfig(_WIDE, (2, 2, 2, 2)),
    "mit_b2": MiTConfig(_WIDE, (3, 4, 6, 3)),
    "mit_b3": MiTConfig(_WIDE, (3, 4, 18, 3)),
    "mit_b4": MiTConfig(_WIDE, (3, 8, 27, 3)),
    "mit_b5": MiTConfig(_WIDE, (3, 6, 40, 3)),
}


class TokenReduction(nn.Module):
    """Sequence reduction as a linear layer over patches of tokens.

    Published as a convolution whose kernel is its stride. Patches of tokens in raster order are
    copied in long runs, where the convolution needs the whole map transposed, and a linear layer
    can become INT8.
    """

    def __init__(self, published: SegformerSequenceReduction) -> None:
        super().__init__()
        self.sequence_reduction = published.sequence_reduction
        self.layer_norm = published.layer_norm

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """``[n, height * width, C]`` to ``[n, (height // r) * (width // r), C]``."""
        conv = self.sequence_reduction
        ratio, channels = conv.stride[0], conv.in_channels
        rows, columns = height // ratio, width // ratio
        maps = tokens.reshape(-1, height, width, channels)[:, : rows * ratio, : columns * ratio]
        patches = maps.reshape(-1, rows, ratio, columns, ratio, channels).transpose(2, 3)
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        reduced = F.linear(patches.reshape(-1, rows * columns, weight.shape[1]), weight, conv.bias)
        normed: Tensor = self.layer_norm(reduced)
        return normed


class MiTEncoder(nn.Module):
    """Image ``[n, 3, H, W]`` to four maps ``[n, C_i, ceil(H/s), ceil(W/s)]``, s = 4, 8, 16, 32."""

    def __init__(self, config: MiTConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        settings: dict[str, Any] = {"attn_implementation": "eager"}
        sizes = self._settings = SegformerConfig(
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            num_attention_heads=list(config.heads),
            sr_ratios=list(config.reductions),
            mlp_ratios=list(config.mlp_ratios),
            drop_path_rate=drop_path,
            **settings,
        )
        self.stages = SegformerModel(sizes).stages
        for name, module in self.stages.named_modules():
            if isinstance(module, nn.LayerNorm):
                inner = _STAGE_OR_BLOCK_NORM.fullmatch(name) is not None
                module.eps = config.norm_eps[0 if inner else 1]
            if isinstance(module, SegformerAttention) and module.sequence_reduction_ratio > 1:
                reduction = TokenReduction(module.sequence_reduction)
                module.sequence_reduction = reduction  # type: ignore[assignment]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return self.config.widths

    def fuse_attention(self) -> None:
        """Use PyTorch's fused attention, which exported graphs cannot contain; for training."""
        self._settings._attn_implementation = "sdpa"

    @property
    def min_extent(self) -> int:
        """Smallest height and width: every reduced map must keep one token."""
        return max((4 << i) * (ratio - 1) + 1 for i, ratio in enumerate(self.config.reductions))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The four maps, finest first."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps


_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.q": "attention.q_proj",
    "attn.proj": "attention.o_proj",
    "attn.sr": "attention.sequence_reduction.sequence_reduction",
    "attn.norm": "attention.sequence_reduction.layer_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
    "mlp.fc2": "mlp.fc2",
}


def mit_keys(config: MiTConfig) -> KeyMap:
    """Published key names (without ``backbone.``) to those of ``MiTEncoder``."""
    keys = KeyMap()
    for i in range(4):
        keys.pair(f"patch_embed{i + 1}.proj", f"stages.{i}.patch_embeddings.proj")
        keys.pair(f"patch_embed{i + 1}.norm", f"stages.{i}.patch_embeddings.layer_norm")
        keys.pair(f"norm{i + 1}", f"stages.{i}.layer_norm")
        for j in range(config.depths[i]):
            old, new = f"block{i + 1}.{j}", f"stages.{i}.blocks.{j}"
            for theirs, ours in _IN_BLOCK.items():
                if config.reductions[i] > 1 or theirs not in ("attn.sr", "attn.norm"):
                    keys.pair(f"{old}.{theirs}", f"{new}.{ours}")
            keys.stacked(f"{old}.attn.kv", (f"{new}.attention.k_proj", f"{new}.attention.v_proj"))
    return keys


def infer_mit(weights: Mapping[str, Tensor], *, norm_eps: Any = None) -> MiTConfig:
    """Read the sizes off tensor names and shapes (keys without ``backbone.``).

    Args:
        weights: of the encoder.
        norm_eps: see ``MiTConfig``; ``None`` is the publication's.
    """
    sizes: list[tuple[int, int, int, int]] = []
    for i in range(1, 5):
        width = _shape(weights, f"patch_embed{i}.proj.weight")[0]
        depth = count_entries(weights, f"block{i}.")
        if depth == 0:
            raise CheckpointError(
                f"the encoder has no backbone.block{i}.*: an incomplete MiT encoder"
            )
        reduction = weights.get(f"block{i}.0.attn.sr.weight", torch.empty(0, 0, 1, 1)).shape[-1]
        ratio = _shape(weights, f"block{i}.0.mlp.fc1.weight")[0] // width
        if width % HEADS[i - 1]:
            raise CheckpointError(f"MiT width {width} is not divisible by its {HEADS[i - 1]} heads")
        sizes.append((width, depth, reduction, ratio))
    first, second, third, fourth = sizes
    inner, outer = NORM_EPS if norm_eps is None else _read_eps(norm_eps)
    found = MiTConfig(*zip(first, second, third, fourth, strict=True))
    return replace(found, norm_eps=(inner, outer))


def _read_eps(value: Any) -> tuple[float, float]:
    try:
        inner, outer = read_numbers(value, 2)
        if not 0 < min(inner, outer) <= max(inner, outer) < 1:
            raise ValueError("small numbers")
    except (ValueError, TypeError):
        raise CheckpointError(
            "norm_eps is not two small numbers above 0, of the encoder's norms"
        ) from None
    return inner, outer


def _shape(weights: Mapping[str, Tensor], key: str) -> torch.Size:
    if key not in weights:
        raise CheckpointError(f"the checkpoint lacks backbone.{key}, which every MiT encoder has")
    return weights[key].shape

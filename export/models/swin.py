"""Swin encoders (arXiv 2103.14030) on transformers' SwinBackbone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import SwinBackbone, SwinConfig

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap, count_entries

STAGES = ("stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class SwinSizes:
    """Sizes of a Swin encoder with four stages."""

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    mlp_ratio: int = 4

    @property
    def name(self) -> str:
        """Published name, or ``swin`` for other sizes."""
        found = [name for name, config in SWIN_PRESETS.items() if config == self]
        return found[0] if found else "swin"


SWIN_PRESETS: dict[str, SwinSizes] = {
    "swin_t": SwinSizes(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": SwinSizes(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b": SwinSizes(128, (2, 2, 18, 2), (4, 8, 16, 32), window=12),
    "swin_l": SwinSizes(192, (2, 2, 18, 2), (6, 12, 24, 48), window=12),
}


class SwinEncoder(nn.Module):
    """Image ``[n, 3, H, W]`` to four maps ``[n, C_i, ceil(H/s), ceil(W/s)]``, s = 4, 8, 16, 32."""

    def __init__(self, config: SwinSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        settings: dict[str, Any] = {"out_features": list(STAGES), "attn_implementation": "eager"}
        sizes = SwinConfig(
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.heads),
            window_size=config.window,
            mlp_ratio=config.mlp_ratio,
            drop_path_rate=drop_path,
            **settings,
        )
        self.backbone = SwinBackbone(sizes)
        # A norm that only the classification model uses.
        self.backbone.swin.layernorm = nn.Identity()  # type: ignore[assignment]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return tuple(self.config.embed_dim * 2**i for i in range(4))

    @property
    def min_extent(self) -> int:
        """Smallest height and width."""
        return 4

    def forward(self, image: Tensor) -> list[Tensor]:
        """The four maps, finest first."""
        return list(self.backbone(image).feature_maps)


_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def swin_keys(config: SwinSizes) -> KeyMap:
    """Published key names (without ``backbone.``) to those of ``SwinEncoder``."""
    keys = KeyMap()
    keys.pair("patch_embed.proj", "backbone.swin.embeddings.patch_embeddings.projection")
    keys.pair("patch_embed.norm", "backbone.swin.embeddings.norm")
    for i, depth in enumerate(config.depths):
        keys.pair(f"norm{i}", f"backbone.hidden_states_norms.{STAGES[i]}")
        layer = f"backbone.swin.encoder.layers.{i}"
        if i + 1 < len(config.depths):
            for part in ("reduction", "norm"):
                keys.pair(f"layers.{i}.downsample.{part}", f"{layer}.downsample.{part}")
        for j in range(depth):
            old, new = f"layers.{i}.blocks.{j}", f"{layer}.blocks.{j}"
            for theirs, ours in _IN_BLOCK.items():
                keys.pair(f"{old}.{theirs}", f"{new}.{ours}")
            attention = f"{new}.attention"
            keys.stacked(f"{old}.attn.qkv", tuple(f"{attention}.{p}_proj" for p in "qkv"))
            keys.pair(
                f"{old}.attn.relative_position_bias_table",
                f"{attention}.relative_position_bias.relative_position_bias_table",
            )
    return keys


def infer_swin(weights: Mapping[str, Tensor]) -> SwinSizes:
    """Read the sizes off tensor names and shapes (keys without ``backbone.``)."""
    depths = tuple(count_entries(weights, f"layers.{i}.blocks.") for i in range(4))
    tables = [f"layers.{i}.blocks.0.attn.relative_position_bias_table" for i in range(4)]
    missing = [key for key in tables if key not in weights]
    if missing or 0 in depths:
        raise CheckpointError(
            f"the encoder lacks {', '.join('backbone.' + key for key in missing)}: "
            "an incomplete Swin encoder of four stages"
        )
    embed_dim = weights["patch_embed.proj.weight"].shape[0]
    side = math.isqrt(weights[tables[0]].shape[0])
    return SwinSizes(
        embed_dim=embed_dim,
        depths=depths,
        heads=tuple(weights[key].shape[1] for key in tables),
        window=(side + 1) // 2,
        mlp_ratio=weights["layers.0.blocks.0.mlp.fc1.weight"].shape[0] // embed_dim,
    )

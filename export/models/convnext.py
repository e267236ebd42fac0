"""ConvNeXt encoders (arXiv 2201.03545) on transformers' ConvNextBackbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import ConvNextBackbone, ConvNextConfig

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap, count_entries
from streamseg.export.models.fake_backbone import build_backbone

STAGES = ("stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class ConvNeXtSizes:
    """Sizes of a ConvNeXt encoder, a value per stage (strides 4, 8, 16, 32)."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def name(self) -> str:
        """Published name, or ``convnext`` for other sizes."""
        found = [name for name, config in CONVNEXT_PRESETS.items() if config == self]
        return found[0] if found else "convnext"


CONVNEXT_PRESETS: dict[str, ConvNeXtSizes] = {
    "convnext_t": ConvNeXtSizes((96, 192, 384, 768), (3, 3, 9, 3)),
    "convnext_s": ConvNeXtSizes((96, 192, 384, 768), (3, 3, 27, 3)),
    "convnext_b": ConvNeXtSizes((128, 256, 512, 1024), (3, 3, 27, 3)),
    "convnext_l": ConvNeXtSizes((192, 384, 768, 1536), (3, 3, 27, 3)),
    "convnext_xl": ConvNeXtSizes((256, 512, 1024, 2048), (3, 3, 27, 3)),
}


class ConvNeXtEncoder(nn.Module):
    """Image ``[n, 3, H, W]`` to four maps ``[n, C_i, H // s, W // s]``, s = 4, 8, 16, 32."""

    min_extent = 32

    def __init__(self, config: ConvNeXtSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        settings: dict[str, Any] = {"out_features": list(STAGES)}
        sizes = ConvNextConfig(
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            drop_path_rate=drop_path,
            **settings,
        )
        self.backbone = build_backbone(lambda: ConvNextBackbone(sizes))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return self.config.widths

    def forward(self, image: Tensor) -> list[Tensor]:
        """The four maps, finest first."""
        return list(self.backbone(image).feature_maps)


_IN_BLOCK = {
    "dwconv": "dwconv",
    "norm": "layernorm",
    "pwconv1": "pwconv1",
    "pwconv2": "pwconv2",
    "gamma": "layer_scale_parameter",
}


def convnext_keys(config: ConvNeXtSizes) -> KeyMap:
    """Published key names (without ``backbone.``) to those of ``ConvNeXtEncoder``."""
    keys = KeyMap()
    keys.pair("downsample_layers.0.0", "backbone.embeddings.patch_embeddings")
    keys.pair("downsample_layers.0.1", "backbone.embeddings.layernorm")
    for i, depth in enumerate(config.depths):
        keys.pair(f"norm{i}", f"backbone.hidden_states_norms.{STAGES[i]}")
        stage = f"backbone.encoder.stages.{i}"
        for part in (0, 1) if i else ():
            keys.pair(f"downsample_layers.{i}.{part}", f"{stage}.downsampling_layer.{part}")
        for j in range(depth):
            for theirs, ours in _IN_BLOCK.items():
                keys.pair(f"stages.{i}.{j}.{theirs}", f"{stage}.layers.{j}.{ours}")
    return keys


def infer_convnext(weights: Mapping[str, Tensor]) -> ConvNeXtSizes:
    """Read the sizes off tensor names and shapes (keys without ``backbone.``)."""
    depths = tuple(count_entries(weights, f"stages.{i}.") for i in range(4))
    needed = [f"stages.{i}.0.gamma" for i in range(4)]
    missing = [f"backbone.{key}" for key in needed if key not in weights]
    if missing or 0 in depths:
        raise CheckpointError(
            f"the encoder is an incomplete ConvNeXt of four stages: it lacks {', '.join(missing)}"
        )
    return ConvNeXtSizes(tuple(weights[key].shape[0] for key in needed), depths)

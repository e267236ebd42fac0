"""The encoders that any system here can stand on, chosen by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap
from streamseg.export.models.convnext import (
    CONVNEXT_PRESETS,
    ConvNeXtEncoder,
    ConvNeXtSizes,
    convnext_keys,
    infer_convnext,
)
from streamseg.export.models.mit import (
    MIT_PRESETS,
    NORM_EPS,
    MiTConfig,
    MiTEncoder,
    infer_mit,
    mit_keys,
)
from streamseg.export.models.swin import (
    SWIN_PRESETS,
    SwinEncoder,
    SwinSizes,
    infer_swin,
    swin_keys,
)
from streamseg.export.models.vit import VIT_PRESETS, VitEncoder, VitSizes, infer_vit, vit_keys
from streamseg.export.step import Size, refuse_size

EncoderConfig = MiTConfig | SwinSizes | ConvNeXtSizes | VitSizes
Encoder = MiTEncoder | SwinEncoder | ConvNeXtEncoder | VitEncoder
ENCODER_PRESETS: dict[str, EncoderConfig] = {
    **MIT_PRESETS,
    **SWIN_PRESETS,
    **CONVNEXT_PRESETS,
    **VIT_PRESETS,
}


def build_encoder(config: EncoderConfig, *, drop_path: float = 0.0) -> Encoder:
    """The encoder of ``config``, with initial weights."""
    if isinstance(config, MiTConfig):
        return MiTEncoder(config, drop_path=drop_path)
    if isinstance(config, ConvNeXtSizes):
        return ConvNeXtEncoder(config, drop_path=drop_path)
    if isinstance(config, VitSizes):
        return VitEncoder(config, drop_path=drop_path)
    return SwinEncoder(config, drop_path=drop_path)


def patch_of(config: EncoderConfig) -> int:
    """Pixels that heights and widths must be multiples of; 1 where all sizes run."""
    return config.patch if isinstance(config, VitSizes) else 1


def check_encoder_size(encoder: Encoder, config: EncoderConfig, size: Size) -> None:
    """Refuse sizes that leave a stage without a cell, or cut a patch.

    Raises:
        ExportError: the encoder cannot run at this size.
    """
    least, patch = max(encoder.min_extent, 5), patch_of(config)
    if min(size) < least:
        raise refuse_size(size, f"encoder {config.name} needs at least {least}x{least}")
    if any(extent % patch for extent in size):
        near = "x".join(str(max(2, round(extent / patch)) * patch) for extent in size)
        reason = f"encoder {config.name} needs multiples of {patch}, such as {near}"
        raise refuse_size(size, reason)


def encoder_keys(config: EncoderConfig) -> KeyMap:
    """Published key names (without ``backbone.``) to those of our encoder."""
    if isinstance(config, MiTConfig):
        return mit_keys(config)
    if isinstance(config, VitSizes):
        return vit_keys(config)
    return convnext_keys(config) if isinstance(config, ConvNeXtSizes) else swin_keys(config)


def infer_encoder(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None
) -> EncoderConfig:
    """Recognise the encoder by its key names (without ``backbone.``) and read its sizes.

    Args:
        weights: of the encoder.
        settings: ``norm_eps`` of a MiT, where its file or layout states one.
    """
    if "patch_embed1.proj.weight" in weights:
        return infer_mit(weights, norm_eps=(settings or {}).get("norm_eps"))
    if "patch_embed.proj.weight" in weights:
        return infer_swin(weights)
    if "downsample_layers.0.0.weight" in weights:
        return infer_convnext(weights)
    if "embeddings.cls_token" in weights:
        return infer_vit(weights)
    raise CheckpointError(
        "the encoder is neither MiT (backbone.patch_embed1.*) nor Swin (backbone.patch_embed.*) "
        "nor ConvNeXt (backbone.downsample_layers.*) nor DINO (backbone.embeddings.cls_token)"
    )


def describe_encoder(config: EncoderConfig) -> dict[str, Any]:
    """Name for the manifest, and the epsilons of norms where they are not the publication's."""
    named: dict[str, Any] = {"encoder": config.name}
    if isinstance(config, MiTConfig) and config.norm_eps != NORM_EPS:
        named["norm_eps"] = list(config.norm_eps)
    return named

"""The encoders that any system here can stand on, chosen by configuration."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap
from streamseg.export.models.mit import MIT_PRESETS, MiTConfig, MiTEncoder, infer_mit, mit_keys
from streamseg.export.models.swin import (
    SWIN_PRESETS,
    SwinEncoder,
    SwinSizes,
    infer_swin,
    swin_keys,
)

EncoderConfig = MiTConfig | SwinSizes
Encoder = MiTEncoder | SwinEncoder
ENCODER_PRESETS: dict[str, EncoderConfig] = {**MIT_PRESETS, **SWIN_PRESETS}


def build_encoder(config: EncoderConfig, *, drop_path: float = 0.0) -> Encoder:
    """The encoder of ``config``, with initial weights."""
    if isinstance(config, MiTConfig):
        return MiTEncoder(config, drop_path=drop_path)
    return SwinEncoder(config, drop_path=drop_path)


def encoder_keys(config: EncoderConfig) -> KeyMap:
    """Published key names (without ``backbone.``) to those of our encoder."""
    return mit_keys(config) if isinstance(config, MiTConfig) else swin_keys(config)


def infer_encoder(weights: Mapping[str, Tensor]) -> EncoderConfig:
    """Recognise the encoder by its key names (without ``backbone.``) and read its sizes."""
    if "patch_embed1.proj.weight" in weights:
        return infer_mit(weights)
    if "patch_embed.proj.weight" in weights:
        return infer_swin(weights)
    raise CheckpointError(
        "the encoder is neither MiT (backbone.patch_embed1.*) nor Swin (backbone.patch_embed.*)"
    )

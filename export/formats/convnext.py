"""ConvNeXt's layouts; published: ``backbone.downsample_layers.0.0``, ``stages.0.0.dwconv``."""

from __future__ import annotations

from streamseg.export.formats.renaming import Rule, same, table

_BLOCK = "backbone.stages.{s}.{b}."

PUBLISHED = same(
    "backbone.downsample_layers.{s}.{i}",
    "backbone.norm{s}",
    _BLOCK + "dwconv",
    _BLOCK + "norm",
    _BLOCK + "pwconv1",
    _BLOCK + "pwconv2",
    _BLOCK + "{leaf}",  # gamma
)

TRANSFORMERS = (
    Rule("backbone.embeddings.patch_embeddings", "backbone.downsample_layers.0.0"),
    Rule("backbone.embeddings.layernorm", "backbone.downsample_layers.0.1"),
    Rule(
        "backbone.encoder.stages.{s}.downsampling_layer.{i}", "backbone.downsample_layers.{s}.{i}"
    ),
    *table(
        "backbone.hidden_states_norms.stage",
        "backbone.norm",
        {str(stage + 1): str(stage) for stage in range(4)},
    ),
    *table(
        "backbone.encoder.stages.{s}.layers.{b}.",
        _BLOCK,
        {"dwconv": "dwconv", "layernorm": "norm", "pwconv1": "pwconv1", "pwconv2": "pwconv2"},
    ),
    Rule(
        "backbone.encoder.stages.{s}.layers.{b}.layer_scale_parameter",
        "backbone.stages.{s}.{b}.gamma",
        parameter=True,
    ),
)

# OpenMMLab's own ConvNeXt, from its classification or pretraining package.
MMSEG = (
    *same("backbone.downsample_layers.{s}.{i}", "backbone.norm{s}"),
    *table(
        _BLOCK,
        _BLOCK,
        {
            "depthwise_conv": "dwconv",
            "norm": "norm",
            "pointwise_conv1": "pwconv1",
            "pointwise_conv2": "pwconv2",
            "{leaf}": "{leaf}",
        },
    ),
)

"""Mask2Former's layouts; published (detectron2): ``sem_seg_head.pixel_decoder``, ``predictor``."""

from __future__ import annotations

from streamseg.export.formats.renaming import Rule, same, table

_PIXELS = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."

PUBLISHED = (
    *same(_PIXELS + "{rest}"),
    *same(
        *(
            _PREDICTOR + name
            for name in (
                "transformer_self_attention_layers.{rest}",
                "transformer_cross_attention_layers.{rest}",
                "transformer_ffn_layers.{rest}",
                "decoder_norm",
                "query_feat",
                "query_embed",
                "level_embed",
                "input_proj.{i}",
                "class_embed",
                "mask_embed.{rest}",
            )
        )
    ),
    # The first release's names, which its published weights keep.
    Rule(_PREDICTOR + "static_query", _PREDICTOR + "query_feat"),
    Rule("sem_seg_head.input_proj.{rest}", _PIXELS + "input_proj.{rest}"),
    Rule("sem_seg_head.transformer.{rest}", _PIXELS + "transformer.{rest}"),
    Rule("sem_seg_head.adapter_{i}.{rest}", _PIXELS + "adapter_{i}.{rest}"),
    Rule("sem_seg_head.layer_{i}.{rest}", _PIXELS + "layer_{i}.{rest}"),
    Rule("sem_seg_head.mask_features.{rest}", _PIXELS + "mask_features.{rest}"),
)

MPVSS = same("motion.{rest}")

_THEIR_PIXELS = "model.pixel_level_module.decoder."
_THEIR_DECODER = "model.transformer_module."
_LAYER = _THEIR_DECODER + "decoder.layers.{b}."
_SELF = _PREDICTOR + "transformer_self_attention_layers.{b}."
_CROSS = _PREDICTOR + "transformer_cross_attention_layers.{b}."
_FEED = _PREDICTOR + "transformer_ffn_layers.{b}."

TRANSFORMERS = (
    *table(
        _THEIR_PIXELS,
        _PIXELS,
        {
            "adapter_{i}.0": "adapter_{i}",
            "adapter_{i}.1": "adapter_{i}.norm",
            "layer_{i}.0": "layer_{i}",
            "layer_{i}.1": "layer_{i}.norm",
            "input_projections.{i}.{b}": "input_proj.{i}.{b}",
            "mask_projection": "mask_features",
        },
    ),
    Rule(_THEIR_PIXELS + "{leaf}", _PIXELS + "transformer.{leaf}"),  # level_embed
    *table(
        _THEIR_PIXELS + "encoder.layers.{b}.",
        _PIXELS + "transformer.encoder.layers.{b}.",
        {
            "self_attn.{rest}": "self_attn.{rest}",
            "self_attn_layer_norm": "norm1",
            "fc1": "linear1",
            "fc2": "linear2",
            "final_layer_norm": "norm2",
        },
    ),
    *table(
        _THEIR_DECODER,
        _PREDICTOR,
        {
            "queries_features": "query_feat",
            "queries_embedder": "query_embed",
            "level_embed": "level_embed",
            "input_projections.{i}": "input_proj.{i}",
            "decoder.layernorm": "decoder_norm",
            "decoder.mask_predictor.mask_embedder.{i}.0": "mask_embed.layers.{i}",
        },
    ),
    Rule("class_predictor", _PREDICTOR + "class_embed"),
    Rule(_LAYER + "cross_attn.in_proj_{leaf}", _CROSS + "multihead_attn.in_proj_{leaf}"),
    Rule(_LAYER + "cross_attn.out_proj", _CROSS + "multihead_attn.out_proj"),
    Rule(_LAYER + "cross_attn_layer_norm", _CROSS + "norm"),
    *(
        Rule(
            f"{_LAYER}self_attn.{part}_proj.{{leaf}}",
            _SELF + "self_attn.in_proj_{leaf}",
            joined=(index, 3),
        )
        for index, part in enumerate("qkv")
    ),
    Rule(_LAYER + "self_attn.out_proj", _SELF + "self_attn.out_proj"),
    Rule(_LAYER + "self_attn_layer_norm", _SELF + "norm"),
    Rule(_LAYER + "fc1", _FEED + "linear1"),
    Rule(_LAYER + "fc2", _FEED + "linear2"),
    Rule(_LAYER + "final_layer_norm", _FEED + "norm"),
)

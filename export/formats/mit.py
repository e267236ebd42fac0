"""MiT's layouts; published: ``backbone.patch_embed1``, ``block1.0.attn.kv``, ``norm1``."""

from __future__ import annotations

import torch
from torch import Tensor

from streamseg.export.formats.renaming import Rule, same, table

_BLOCK = "backbone.block{s+1}.{b}."

PUBLISHED = same(
    "backbone.patch_embed{s}.proj",
    "backbone.patch_embed{s}.norm",
    "backbone.norm{s}",
    "backbone.block{s}.{b}.norm1",
    "backbone.block{s}.{b}.norm2",
    "backbone.block{s}.{b}.attn.q",
    "backbone.block{s}.{b}.attn.kv",
    "backbone.block{s}.{b}.attn.sr",
    "backbone.block{s}.{b}.attn.norm",
    "backbone.block{s}.{b}.attn.proj",
    "backbone.block{s}.{b}.mlp.fc1",
    "backbone.block{s}.{b}.mlp.dwconv.dwconv",
    "backbone.block{s}.{b}.mlp.fc2",
)

# transformers 4, and the files of every version.
_TRANSFORMERS_BLOCK = "segformer.encoder.block.{s}.{b}."
TRANSFORMERS = (
    *table(
        "segformer.encoder.",
        "backbone.",
        {
            "patch_embeddings.{s}.proj": "patch_embed{s+1}.proj",
            "patch_embeddings.{s}.layer_norm": "patch_embed{s+1}.norm",
            "layer_norm.{s}": "norm{s+1}",
        },
    ),
    *table(
        _TRANSFORMERS_BLOCK,
        _BLOCK,
        {
            "layer_norm_1": "norm1",
            "attention.self.query": "attn.q",
            "attention.self.sr": "attn.sr",
            "attention.self.layer_norm": "attn.norm",
            "attention.output.dense": "attn.proj",
            "layer_norm_2": "norm2",
            "mlp.dense1": "mlp.fc1",
            "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
            "mlp.dense2": "mlp.fc2",
        },
    ),
    Rule(_TRANSFORMERS_BLOCK + "attention.self.key", _BLOCK + "attn.kv", joined=(0, 2)),
    Rule(_TRANSFORMERS_BLOCK + "attention.self.value", _BLOCK + "attn.kv", joined=(1, 2)),
)

# The modules of transformers 5, as torch.save(model.state_dict()) stores them.
_MODULES_BLOCK = "segformer.stages.{s}.blocks.{b}."
TRANSFORMERS_MODULES = (
    *table(
        "segformer.stages.{s}.",
        "backbone.",
        {
            "patch_embeddings.proj": "patch_embed{s+1}.proj",
            "patch_embeddings.layer_norm": "patch_embed{s+1}.norm",
            "layer_norm": "norm{s+1}",
        },
    ),
    *table(
        _MODULES_BLOCK,
        _BLOCK,
        {
            "layernorm_before": "norm1",
            "attention.q_proj": "attn.q",
            "attention.sequence_reduction.sequence_reduction": "attn.sr",
            "attention.sequence_reduction.layer_norm": "attn.norm",
            "attention.o_proj": "attn.proj",
            "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
            "mlp.fc2": "mlp.fc2",
        },
    ),
    Rule(_MODULES_BLOCK + "attention.k_proj", _BLOCK + "attn.kv", joined=(0, 2)),
    Rule(_MODULES_BLOCK + "attention.v_proj", _BLOCK + "attn.kv", joined=(1, 2)),
)


FROM_TRANSFORMERS = (*TRANSFORMERS, *TRANSFORMERS_MODULES)


def _query(stacked: Tensor) -> Tensor:
    return stacked[: stacked.shape[0] // 3]


def _key_and_value(stacked: Tensor) -> Tensor:
    return stacked[stacked.shape[0] // 3 :]


def _without_pixels(kernel: Tensor) -> Tensor:
    """A 1x1 convolution's kernel as a linear layer's matrix; biases stay."""
    return torch.flatten(kernel, 1) if kernel.ndim == 4 else kernel


# mmsegmentation's own MixVisionTransformer.
_MMSEG_BLOCK = "backbone.layers.{s}.1.{b}."
MMSEG = (
    *table(
        "backbone.layers.{s}.",
        "backbone.",
        {"0.projection": "patch_embed{s+1}.proj", "0.norm": "patch_embed{s+1}.norm"},
    ),
    Rule("backbone.layers.{s}.2", "backbone.norm{s+1}"),
    *table(
        _MMSEG_BLOCK,
        _BLOCK,
        {
            "norm1": "norm1",
            "attn.sr": "attn.sr",
            "attn.norm": "attn.norm",
            "attn.attn.out_proj": "attn.proj",
            "norm2": "norm2",
            "ffn.layers.1": "mlp.dwconv.dwconv",
        },
    ),
    Rule(_MMSEG_BLOCK + "attn.attn.in_proj_{leaf}", _BLOCK + "attn.q.{leaf}", change=_query),
    Rule(
        _MMSEG_BLOCK + "attn.attn.in_proj_{leaf}", _BLOCK + "attn.kv.{leaf}", change=_key_and_value
    ),
    Rule(_MMSEG_BLOCK + "ffn.layers.0", _BLOCK + "mlp.fc1", change=_without_pixels),
    Rule(_MMSEG_BLOCK + "ffn.layers.4", _BLOCK + "mlp.fc2", change=_without_pixels),
)

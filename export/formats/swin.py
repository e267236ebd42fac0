"""Swin's layouts; published: ``backbone.patch_embed.proj``, ``layers.0.blocks.0.attn.qkv``."""

from __future__ import annotations

from torch import Tensor

from streamseg.export.formats.renaming import Rule, same, table

_BLOCK = "backbone.layers.{s}.blocks.{b}."

PUBLISHED = (
    *same(
        "backbone.patch_embed.proj",
        "backbone.patch_embed.norm",
        "backbone.norm{s}",
        "backbone.layers.{s}.downsample.reduction",
        "backbone.layers.{s}.downsample.norm",
        _BLOCK + "norm1",
        _BLOCK + "norm2",
        _BLOCK + "attn.qkv",
        _BLOCK + "attn.proj",
        _BLOCK + "mlp.fc1",
        _BLOCK + "mlp.fc2",
        _BLOCK + "attn.{leaf}",  # the table of position biases
    ),
)


def transformers(prefix: str) -> tuple[Rule, ...]:
    """Swin in transformers, below ``prefix``: a backbone's files, and modules since version 5."""
    rules: list[Rule] = list(
        table(
            f"{prefix}hidden_states_norms.stage",
            "backbone.norm",
            {str(stage + 1): str(stage) for stage in range(4)},
        )
    )
    for root in (prefix, f"{prefix}swin."):
        block = root + "encoder.layers.{s}.blocks.{b}."
        rules += table(
            root,
            "backbone.",
            {
                "embeddings.patch_embeddings.projection": "patch_embed.proj",
                "embeddings.norm": "patch_embed.norm",
                "encoder.layers.{s}.downsample.reduction": "layers.{s}.downsample.reduction",
                "encoder.layers.{s}.downsample.norm": "layers.{s}.downsample.norm",
            },
        )
        rules += table(
            block,
            _BLOCK,
            {
                "layernorm_before": "norm1",
                "layernorm_after": "norm2",
                "attention.output.dense": "attn.proj",
                "attention.o_proj": "attn.proj",
                "intermediate.dense": "mlp.fc1",
                "mlp.fc1": "mlp.fc1",
                "output.dense": "mlp.fc2",
                "mlp.fc2": "mlp.fc2",
                "attention.self.{leaf}": "attn.{leaf}",
                "attention.relative_position_bias.{leaf}": "attn.{leaf}",
            },
        )
        for style in (("self.query", "self.key", "self.value"), ("q_proj", "k_proj", "v_proj")):
            rules += [
                Rule(f"{block}attention.{name}", _BLOCK + "attn.qkv", joined=(index, 3))
                for index, name in enumerate(style)
            ]
    return tuple(rules)


def _published_order(merged: Tensor) -> Tensor:
    """Channels of a merge of 2x2 patches from nn.Unfold's order to the publication's.

    Unfold has the patch innermost, in raster order; the publication has it outermost, and goes
    down the columns.
    """
    patches = merged.reshape(*merged.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]
    return patches.transpose(-1, -2).flatten(-2)


# mmsegmentation's own SwinTransformer.
_MMSEG_BLOCK = "backbone.stages.{s}.blocks.{b}."
MMSEG = (
    Rule("backbone.patch_embed.projection", "backbone.patch_embed.proj"),
    *same("backbone.patch_embed.norm", "backbone.norm{s}"),
    *(
        Rule(
            "backbone.stages.{s}.downsample." + name,
            "backbone.layers.{s}.downsample." + name,
            change=_published_order,
        )
        for name in ("reduction", "norm")
    ),
    *table(
        _MMSEG_BLOCK,
        _BLOCK,
        {
            "norm1": "norm1",
            "attn.w_msa.qkv": "attn.qkv",
            "attn.w_msa.proj": "attn.proj",
            "attn.w_msa.{leaf}": "attn.{leaf}",
            "norm2": "norm2",
            "ffn.layers.0.0": "mlp.fc1",
            "ffn.layers.1": "mlp.fc2",
        },
    ),
)

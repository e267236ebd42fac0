"""SegFormer's heads; published: ``linear_c1.proj``, ``linear_fuse``, ``linear_pred``."""

from __future__ import annotations

from streamseg.export.formats.renaming import same, table

PUBLISHED = same(
    "decode_head.linear_c{i}.proj",
    "decode_head.linear_fuse.conv",
    "decode_head.linear_fuse.bn",
    "decode_head.linear_pred",
    "decode_head.conv_seg",
)

TRANSFORMERS = (
    *table(
        "decode_head.",
        "decode_head.",
        {
            "linear_c.{i}.proj": "linear_c{i+1}.proj",
            "linear_projections.{i}.proj": "linear_c{i+1}.proj",
            "linear_fuse": "linear_fuse.conv",
            "batch_norm": "linear_fuse.bn",
            "classifier": "linear_pred",
        },
    ),
)

# mmsegmentation's own SegformerHead: convolutions with norms instead of linear layers.
MMSEG = same(
    "decode_head.convs.{i}.conv",
    "decode_head.convs.{i}.bn",
    "decode_head.fusion_conv.conv",
    "decode_head.fusion_conv.bn",
    "decode_head.conv_seg",
)

# What stands beside the published head in the heads that are built on it.
TV3S = same("decode_head.linear_pred2", "decode_head.vs.{rest}")
CFFM = same("decode_head.linear_pred2", "decode_head.decoder_focal.{rest}")
CFFM_PLUS = (*CFFM, *same("decode_head.decoder_swin.{rest}", "decode_head.linear_pred3"))
MRCFA = same(
    "decode_head.deco{i}.{rest}",
    "decode_head.hypercorre_module.{rest}",
    "decode_head.sr1_feat",
    "decode_head.sr2",
    "decode_head.sr3",
)

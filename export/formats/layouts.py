"""The published layouts, how a file's is recognised, and which are close to an unknown one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.formats import (
    convnext,
    mask2former,
    mit,
    resnet,
    segformer,
    swin,
    upernet,
    vit,
)
from streamseg.export.formats.renaming import Rule, rename

_ENCODERS = (*mit.PUBLISHED, *swin.PUBLISHED, *convnext.PUBLISHED, *vit.PUBLISHED)
# transformers uses one epsilon throughout; mmsegmentation's own MiT another.
_TRANSFORMERS_EPS = {"norm_eps": (1e-5, 1e-5)}
_MMSEG_EPS = {"norm_eps": (1e-6, 1e-6)}
_HF_BACKBONE = "model.pixel_level_module.encoder."


@dataclass(frozen=True)
class Layout:
    """How one publication names a network's tensors.

    Attributes:
        name: human-readable.
        mark: matches a part of key names that this layout has and no other before it.
        rules: its table.
        stated: what files of this layout say of their network by being of it.
        config: entries of ``config.json`` that a network here must have.
        read: entries of ``config.json`` that state a setting -> its name.
    """

    name: str
    mark: str
    rules: tuple[Rule, ...]
    stated: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    read: Mapping[str, str] = field(default_factory=dict)

    def prefixes(self, keys: Iterable[str]) -> set[str]:
        """What stands before the mark in ``keys``."""
        pattern = re.compile(r"(^|.*?\.)(?:" + self.mark + ")")
        return {found[1] for key in keys if (found := pattern.match(key)) is not None}


_VIDEOMT_PARTS = (
    *("embeddings", "layers", "layernorm", "query", "query_updater"),
    *("upscale_block", "mask_head", "class_predictor"),
)
LAYOUTS = (
    Layout(
        "TV3S",
        r"decode_head\.vs\.",
        (*_ENCODERS, *segformer.PUBLISHED, *segformer.TV3S),
    ),
    Layout(
        "CFFM++",
        r"decode_head\.decoder_swin\.",
        (*_ENCODERS, *segformer.PUBLISHED, *segformer.CFFM_PLUS),
    ),
    Layout(
        "CFFM",
        r"decode_head\.decoder_focal\.",
        (*_ENCODERS, *segformer.PUBLISHED, *segformer.CFFM),
    ),
    Layout(
        "MRCFA",
        r"decode_head\.hypercorre_module\.",
        (*_ENCODERS, *segformer.PUBLISHED, *segformer.MRCFA),
    ),
    Layout(
        "MPVSS (detectron2)",
        r"motion\.decoder\.",
        (*resnet.PUBLISHED, *swin.PUBLISHED, *mask2former.PUBLISHED, *mask2former.MPVSS),
    ),
    Layout(
        "Mask2Former (detectron2)",
        r"sem_seg_head\.predictor\.",
        (*resnet.PUBLISHED, *swin.PUBLISHED, *mask2former.PUBLISHED),
    ),
    Layout(
        "Mask2Former (transformers)",
        r"model\.pixel_level_module\.decoder\.",
        (
            *swin.transformers(_HF_BACKBONE),
            *resnet.transformers(_HF_BACKBONE),
            *resnet.timm(_HF_BACKBONE + "_backbone."),
            *mask2former.TRANSFORMERS,
        ),
        config={
            "num_attention_heads": (8,),
            "activation_function": ("relu",),
            "pre_norm": (False,),
            "feature_strides": ([4, 8, 16, 32],),
            "common_stride": (4,),
        },
    ),
    Layout(
        "VidEoMT (transformers)",
        r"query_updater\.",
        (
            Rule("attn_mask_probs", "attn_mask_probs", parameter=True),
            *(Rule(f"{part}.{{rest}}", f"{part}.{{rest}}") for part in _VIDEOMT_PARTS),
        ),
        config={"model_type": ("videomt",), "hidden_act": ("gelu",), "mlp_ratio": (4,)},
        read={
            "image_size": "image_size",
            "num_attention_heads": "heads",
            "layer_norm_eps": "norm_eps",
        },
    ),
    Layout(
        "UPerNet (transformers)",
        r"decode_head\.fpn_bottleneck\.batch_norm\.",
        (*swin.transformers("backbone."), *convnext.TRANSFORMERS, *upernet.TRANSFORMERS),
        config={"model_type": ("upernet",)},
    ),
    Layout(
        "UPerNet (mmsegmentation)",
        r"decode_head\.fpn_bottleneck\.bn\.",
        (
            *swin.MMSEG,
            *swin.PUBLISHED,
            *convnext.MMSEG,
            *convnext.PUBLISHED,
            *upernet.PUBLISHED,
        ),
    ),
    Layout(
        "SegFormer (transformers)",
        r"decode_head\.(?:linear_c|linear_projections)\.0\.",
        (*mit.FROM_TRANSFORMERS, *segformer.TRANSFORMERS),
        _TRANSFORMERS_EPS,
        {
            "hidden_act": ("gelu",),
            "num_attention_heads": ([1, 2, 5, 8],),
            "num_encoder_blocks": (4,),
            "patch_sizes": ([7, 3, 3, 3],),
            "strides": ([4, 2, 2, 2],),
            "reshape_last_stage": (True,),
        },
    ),
    Layout(
        "SegFormer (mmsegmentation)",
        r"decode_head\.fusion_conv\.",
        (*mit.MMSEG, *swin.MMSEG, *_ENCODERS, *segformer.MMSEG),
        _MMSEG_EPS,
    ),
    Layout("SegFormer", r"decode_head\.linear_pred\.", (*_ENCODERS, *segformer.PUBLISHED)),
)

# Encoders alone: what a name begins with, what its table expects in front, and the table.
ENCODERS = (
    ("segformer.", Layout("MiT", r"segformer\.(?:encoder|stages)\.", mit.FROM_TRANSFORMERS)),
    ("segformer.", Layout("MiT", r"encoder\.patch_embeddings\.0\.", mit.TRANSFORMERS)),
    ("backbone.", Layout("DINOv2", r"encoder\.layer\.0\.layer_scale1\.", vit.TRANSFORMERS)),
    ("backbone.", Layout("DINOv3", r"layer\.0\.layer_scale1\.", vit.TRANSFORMERS)),
    (
        "backbone.",
        Layout("ConvNeXt", r"encoder\.stages\.0\.layers\.0\.dwconv\.", convnext.TRANSFORMERS),
    ),
    ("swin.", Layout("Swin", r"swin\.(?:embeddings|encoder)\.", swin.transformers(""))),
    ("", Layout("Swin", r"embeddings\.patch_embeddings\.projection\.", swin.transformers(""))),
    ("backbone.", Layout("MiT", r"patch_embed1\.proj\.", mit.PUBLISHED)),
    ("backbone.", Layout("MiT", r"layers\.0\.0\.projection\.", mit.MMSEG)),
    ("backbone.", Layout("Swin", r"patch_embed\.proj\.", swin.PUBLISHED)),
    ("backbone.", Layout("Swin", r"patch_embed\.projection\.", swin.MMSEG)),
)

# Other heads' names, derived buffers, and what serves training only.
TRAINING_ONLY = re.compile(
    r"(^|\.)(num_batches_tracked|relative_position_index(_clips)?(_\d+)?|valid_ind_rolled"
    r"|attn_mask|relative_coords_table|pixel_mean|pixel_std)$"
    r"|(^|\.)(aux\w*_heads?|auxiliary_\w+|criterion|criterions|loss\w*|\w+_loss(es)?|metric\w*"
    r"|\w+_metrics?|ema\w*|\w+_ema|teacher\w*|student\w*|momentum\w*|optimizer\w*|lr_scheduler\w*"
    r"|data_preprocessor|\w*confmat|\w*iou\w*|\w*accuracy\w*)(\.|$)"
)
# The norm behind a classifier's last stage, which no segmentation head reads.
_LAST_NORM = re.compile(
    r"^(backbone|model\.pixel_level_module\.encoder)\.(swin\.|model\.)?layernorm\.(weight|bias)$"
    r"|^(backbone|model\.pixel_level_module\.encoder)\.(_backbone\.)?(norm|fc|head)\.(weight|bias)$"
)
_COPIES = (re.compile(r"(^|[._])(ema|teacher|student|momentum|averaged)"), re.compile("student"))
_MOST_CLOSE = 3
BACKBONE = "backbone."


@dataclass(frozen=True)
class Translated:
    """A file's tensors under published names.

    Attributes:
        layout: that they were found in.
        weights: published name -> tensor.
        prefix: what stood before every name.
        left_out: keys of the file that serve training only.
        outside: keys that are not part of the network, and for which no purpose is known.
        unknown: keys below the prefix that the table does not cover.
    """

    layout: Layout
    weights: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]
    outside: tuple[str, ...]
    unknown: tuple[str, ...]


def own_layout(name: str, marks: Iterable[str]) -> Layout:
    """The layout of a network whose published names are its module's own."""
    return Layout(name, "|".join(re.escape(mark) for mark in marks), (Rule("{rest}", "{rest}"),))


def translate(weights: Mapping[str, Tensor], added: Iterable[Layout] = ()) -> Translated:
    """Find the layout by its mark, under any prefix, and rename.

    Args:
        weights: as in the file.
        added: layouts beside ``LAYOUTS``.

    Raises:
        CheckpointError: no layout has these keys; the message names the closest.
    """
    for layout in (*LAYOUTS, *added):
        prefixes = layout.prefixes(weights)
        if prefixes:
            return _translate(weights, layout, min(prefixes, key=_preference))
    raise CheckpointError(describe_closest(weights))


def translate_encoder(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """An encoder's tensors under published names, from a classifier or a whole network.

    Returns:
        Published name without ``backbone.`` -> tensor, and the keys that no table covers.
    Raises:
        CheckpointError: no layout has these keys.
    """
    if any(layout.prefixes(weights) for layout in LAYOUTS):
        found = translate(weights)
        part = {k.removeprefix(BACKBONE): v for k, v in found.weights.items() if BACKBONE in k}
        return part, [key for key in found.unknown if BACKBONE in key]
    for front, layout in ENCODERS:
        prefixes = layout.prefixes(weights)
        if prefixes:
            prefix = min(prefixes, key=_preference)
            below = {
                front + k[len(prefix) :].removeprefix(front): v
                for k, v in weights.items()
                if k.startswith(prefix)
            }
            renamed = rename(below, layout.rules)
            part = {k.removeprefix(BACKBONE): v for k, v in renamed.weights.items()}
            return part, [key for key in renamed.unknown if not is_training_only(key)]
    raise CheckpointError(describe_closest(weights))


def _preference(prefix: str) -> tuple[int, int, str]:
    """Plain weights before averaged ones, and a teacher before its student."""
    return sum(pattern.search(prefix) is not None for pattern in _COPIES), len(prefix), prefix


def _translate(weights: Mapping[str, Tensor], layout: Layout, prefix: str) -> Translated:
    below = {key[len(prefix) :]: v for key, v in weights.items() if key.startswith(prefix)}
    beside = [key for key in weights if not key.startswith(prefix)]
    renamed = rename(below, layout.rules)
    unused = {key for key in renamed.unknown if is_training_only(key)}
    known = {key for key in beside if is_training_only(key)}
    return Translated(
        layout,
        renamed.weights,
        prefix,
        tuple(sorted({prefix + key for key in unused} | known)),
        tuple(sorted(set(beside) - known)),
        tuple(sorted(prefix + key for key in renamed.unknown if key not in unused)),
    )


def is_training_only(key: str) -> bool:
    """Whether a key serves training only, or is derived from sizes."""
    return TRAINING_ONLY.search(key) is not None or _LAST_NORM.search(key) is not None


def describe_closest(weights: Mapping[str, Any]) -> str:
    """The three layouts that cover most of the keys, with the first keys that differ."""
    keys = [key for key in weights if not is_training_only(key)]
    ranked = sorted((_coverage(layout, keys) for layout in LAYOUTS), key=lambda found: -found[0])
    close = [
        f"{layout.name} ({covered} of {len(keys)} keys fit, not {', '.join(differ[:3])})"
        for covered, layout, differ in ranked[:_MOST_CLOSE]
        if covered
    ]
    listed = "; ".join(close) or "none has any of these keys"
    return f"no known network has these keys: {summarise(keys)}. The closest layouts: {listed}"


def _coverage(layout: Layout, keys: list[str]) -> tuple[int, Layout, list[str]]:
    """How many keys the table covers, below the prefix of most keys or none."""
    best: tuple[int, Layout, list[str]] = (0, layout, keys)
    for prefix in {"", *(key.split(".")[0] + "." for key in keys[:1])}:
        differ = [
            key
            for key in keys
            if not any(rule.pattern.fullmatch(key.removeprefix(prefix)) for rule in layout.rules)
        ]
        if len(keys) - len(differ) > best[0]:
            best = (len(keys) - len(differ), layout, differ)
    return best


def summarise(weights: Iterable[str], most: int = 6) -> str:
    """The leading parts of the key names, for messages."""
    heads = sorted({".".join(str(key).split(".")[:2]) + ".*" for key in weights})
    return ", ".join(heads[:most]) + (", ..." if len(heads) > most else "")

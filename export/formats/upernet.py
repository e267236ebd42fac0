"""UPerNet's heads; published: UperHead, ``psp_modules.0.1``, ``fpn_bottleneck``."""

from __future__ import annotations

from streamseg.export.formats.renaming import table

_CONVOLUTIONS = (
    "psp_modules.{i}.1",
    "bottleneck",
    "lateral_convs.{i}",
    "fpn_convs.{i}",
    "fpn_bottleneck",
)

PUBLISHED = table(
    "decode_head.",
    "decode_head.",
    {f"{name}.{part}": f"{name}.{part}" for name in _CONVOLUTIONS for part in ("conv", "bn")}
    | {"conv_seg": "conv_seg"},
)
TRANSFORMERS = table(
    "decode_head.",
    "decode_head.",
    {
        f"{name}.{part}": f"{name}.{new}"
        for name in _CONVOLUTIONS
        for part, new in (("conv", "conv"), ("batch_norm", "bn"))
    }
    | {"classifier": "conv_seg"},
)

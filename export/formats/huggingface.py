"""What the files beside a transformers checkpoint say: names, normalisation, licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamseg.errors import CheckpointError
from streamseg.export.containers.content import read_json
from streamseg.export.containers.sources import read_card
from streamseg.export.formats.layouts import Layout

_PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
_UNNAMED = re.compile(r"LABEL_\d+")
_RESCALE = 1 / 255


_STAGES: tuple[Any, ...] = (["stage1", "stage2", "stage3", "stage4"],)
_BACKBONES: dict[str, dict[str, tuple[Any, ...]]] = {
    "swin": {
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-5,),
        "patch_size": (4,),
        "qkv_bias": (True,),
        "use_absolute_embeddings": (False,),
        "out_features": _STAGES,
    },
    "convnext": {"hidden_act": ("gelu",), "patch_size": (4,), "out_features": _STAGES},
    "resnet": {
        "hidden_act": ("relu",),
        "layer_type": ("bottleneck",),
        "downsample_in_first_stage": (False,),
        "downsample_in_bottleneck": (False,),
        "out_features": _STAGES,
    },
}


def read_folder(folder: Path, layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta (class names, licence) and what the files state of the network.

    Raises:
        CheckpointError: ``config.json`` asks for a network that differs from the published one.
    """
    config = read_json(folder / "config.json")
    if not config:
        return {}, {}
    check_config(config, layout)
    card = read_card(folder)
    meta: dict[str, Any] = {}
    names = _class_names(config.get("id2label"))
    if names:
        meta["CLASSES"] = names
    licence = card.get("license_name") if card.get("license") == "other" else card.get("license")
    if licence:
        meta["license"] = licence
    stated: dict[str, Any] = {}
    for name, wanted in {"pool_scales": "pool_scales", **layout.read}.items():
        if name in config:
            stated[wanted] = config[name]
    return meta, {**stated, **read_processor(folder)}


def check_config(config: Mapping[str, Any], layout: Layout) -> None:
    """Refuse what no tensor shows and the network here does not have."""
    _require(config, layout.config, layout.name)
    backbone = config.get("backbone_config")
    if isinstance(backbone, Mapping):
        kind = str(backbone.get("model_type"))[:40]
        _require(backbone, _BACKBONES.get(kind, {}), f"{layout.name} with {kind}")


def _require(config: Mapping[str, Any], needed: Mapping[str, tuple[Any, ...]], whose: str) -> None:
    for name, allowed in needed.items():
        value = config.get(name)
        if value is not None and value not in allowed:
            raise CheckpointError(
                f"config.json has {name} {str(value)[:80]}, expected {allowed[0]} for {whose}"
            )


def read_processor(folder: Path) -> dict[str, Any]:
    """Mean and std on the 0..255 scale, from the image processor's file.

    ``(pixel * rescale - mean) / std`` is ``(pixel - mean / rescale) / (std / rescale)``.
    """
    found = next((c for name in _PROCESSORS if (c := read_json(folder / name))), {})
    found = found.get("image_processor", found.get("video_processor", found))
    if not isinstance(found, Mapping) or not found:
        return {}
    scale = found.get("rescale_factor", _RESCALE) if found.get("do_rescale", True) else 1.0
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale <= 1:
        raise CheckpointError(f"the preprocessor's rescale_factor is {scale}, expected 0 to 1")
    mean, std = [0.0] * 3, [1.0] * 3
    if found.get("do_normalize", True):
        if "image_mean" not in found or "image_std" not in found:
            return {}
        mean, std = _triple(found["image_mean"]), _triple(found["image_std"])
    return {"mean": [m / scale for m in mean], "std": [s / scale for s in std]}


def _triple(value: Any) -> list[float]:
    numbers = value if isinstance(value, list) else [value] * 3
    fit = len(numbers) == 3 and all(
        isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers
    )
    if not fit:
        raise CheckpointError(f"the preprocessor's mean or std is {value}, expected three numbers")
    return [float(n) for n in numbers]


def _class_names(labels: Any) -> list[str]:
    """Names by number; made-up names (``LABEL_0``) are none."""
    if not isinstance(labels, Mapping) or not labels:
        return []
    try:
        numbered = {int(key): str(name) for key, name in labels.items()}
    except (TypeError, ValueError):
        raise CheckpointError("config.json's id2label has a key that is not a number") from None
    names = [numbered.get(i, f"class {i}") for i in range(max(numbered) + 1)]
    if any(number < 0 for number in numbered) or len(names) > 4 * len(numbered) + 64:
        raise CheckpointError("config.json's id2label has numbers far apart")
    return [] if all(_UNNAMED.fullmatch(name) for name in names) else names

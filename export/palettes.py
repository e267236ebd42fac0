"""Class names and colours of a checkpoint."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping
from typing import Any

from streamseg.errors import CheckpointError
from streamseg.runtime.bundle.manifest import MAX_CLASSES, ClassInfo


def read_classes(meta: Mapping[str, Any], count: int) -> tuple[ClassInfo, ...]:
    """Names and palette from ``meta`` (keys CLASSES and PALETTE, as mmcv writes them).

    Safetensors metadata holds text only, so both may be JSON there. Without names classes are
    called ``class 0``, ``class 1``, ...; without a palette colours are made that differ in hue.

    Raises:
        CheckpointError: the lists do not fit the network's class count.
    """
    if count > MAX_CLASSES:
        raise CheckpointError(f"the network has {count} classes, at most {MAX_CLASSES} fit uint8")
    names = read_list(meta, "CLASSES") or [f"class {i}" for i in range(count)]
    colors = read_list(meta, "PALETTE") or [spread_color(i) for i in range(count)]
    for what, values in (("CLASSES", names), ("PALETTE", colors)):
        if len(values) != count:
            raise CheckpointError(
                f"meta lists {len(values)} {what}, the network has {count} classes"
            )
    return tuple(
        ClassInfo(i, str(name), _color(color))
        for i, (name, color) in enumerate(zip(names, colors, strict=True))
    )


def spread_color(index: int) -> tuple[int, int, int]:
    """A colour that differs from its neighbours: hues a golden ratio apart."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95 - 0.25 * (index % 3))
    return round(red * 255), round(green * 255), round(blue * 255)


def read_list(meta: Mapping[str, Any], name: str) -> list[Any] | None:
    """The list ``name`` of a checkpoint's ``meta``, which may be JSON text; None without one."""
    value = meta.get(name, meta.get(name.lower()))
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise CheckpointError(f"meta entry {name} is not a JSON list: {value[:60]}") from None
    if value is not None and not isinstance(value, (list, tuple)):
        raise CheckpointError(f"meta entry {name} is a {type(value).__name__}, expected a list")
    return None if value is None else list(value)


def _color(value: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(part) for part in value)
        if min(red, green, blue) < 0 or max(red, green, blue) > 255:
            raise ValueError
    except (TypeError, ValueError):
        raise CheckpointError(f"palette entry {value!r} is not an RGB colour") from None
    return red, green, blue

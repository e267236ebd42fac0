"""What OpenMMLab's files say in ``meta``: names, palette, and the text of their configuration.

The text is Python. It is parsed, and only literals, ``dict(...)`` and names that were assigned
before are read from the tree; nothing is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from streamseg.errors import CheckpointError

_LONGEST_TEXT = 2_000_000
_UNREADABLE = (SyntaxError, ValueError, MemoryError, RecursionError)
_HEAD_NAMES = {
    "window": ("window", "window_size", "win_size"),
    "shift": ("shift", "shift_size"),
    "keep_ratio": ("keep_ratio",),
    "pool_scales": ("pool_scales",),
    "threshold": ("threshold",),
}
# mmsegmentation's own, of a head of one channel that names none.
_THRESHOLD = 0.3
_OFFSETS = ("dilation", "dilations", "offsets", "clip_offsets")
BATCH_NORM_EPS = 1e-5


class _Unknown:
    """A value that the text does not spell out."""


_UNKNOWN = _Unknown()


def read_meta(meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Class names and palette, and what the configuration's text states of the network.

    Raises:
        CheckpointError: the text asks for a network that differs from the published one.
    """
    named = dict(meta)
    dataset = meta.get("dataset_meta")
    if isinstance(dataset, Mapping):
        named = {**dataset, **named}
    for name in ("CLASSES", "PALETTE", "classes", "palette"):
        if not isinstance(named.get(name), (list, str)):
            named.pop(name, None)
    texts = [meta[name] for name in ("config", "cfg") if isinstance(meta.get(name), str)]
    return named, read_text(texts[0]) if texts else {}


def read_text(text: str) -> dict[str, Any]:
    """What a configuration's text states: window, shift, offsets, normalisation and others."""
    values = parse_text(text)
    dicts = list(_dicts(values))
    _check(values)
    stated: dict[str, Any] = {}
    head = _head(values)
    for name, spellings in _HEAD_NAMES.items():
        found = [head[spelling] for spelling in spellings if _is_numbers(head.get(spelling))]
        if found:
            stated[name] = found[0]
    if head.get("out_channels") == 1:
        stated.setdefault("threshold", _THRESHOLD)
    if _is_numbers(head.get("window_h")) and _is_numbers(head.get("window_w")):
        stated["window"] = [head["window_h"], head["window_w"]]
    offsets = _agreed([_past(d[name]) for d in dicts for name in _OFFSETS if name in d])
    if offsets:
        stated["offsets"] = offsets
    return {**stated, **_normalisation(dicts)}


def parse_text(text: str) -> dict[str, Any]:
    """The assignments of a Python text whose values are literals; others are left out."""
    if len(text) > _LONGEST_TEXT:
        return {}
    try:
        tree = ast.parse(text)
        values: dict[str, Any] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values[node.targets[0].id] = _literal(node.value, values)
    except _UNREADABLE:
        return {}
    return values


def _literal(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id, _UNKNOWN)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(entry, names) for entry in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {
            key.value: _literal(value, names)
            for key, value in pairs
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, names)
        return -value if isinstance(value, (int, float)) else _UNKNOWN
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return _keywords(node.keywords, names)
    return _UNKNOWN


def _keywords(keywords: list[ast.keyword], names: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``dict(a=1, **b)``."""
    found: dict[str, Any] = {}
    for keyword in keywords:
        value = _literal(keyword.value, names)
        if keyword.arg is not None:
            found[keyword.arg] = value
        elif isinstance(value, dict):
            found |= value
    return found


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in ``value``; names that are used many times are walked once each."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        entry = pending.pop()
        if isinstance(entry, (dict, list)) and id(entry) not in seen:
            seen.add(id(entry))
            if isinstance(entry, dict):
                yield entry
            pending += entry.values() if isinstance(entry, dict) else entry


def _head(values: Mapping[str, Any]) -> Mapping[str, Any]:
    model = values.get("model")
    head = model.get("decode_head") if isinstance(model, dict) else None
    if isinstance(head, list):
        head = head[-1] if head else None
    return head if isinstance(head, dict) else {}


def _normalisation(dicts: list[dict[str, Any]]) -> dict[str, Any]:
    found = [
        {"mean": d["mean"], "std": d["std"], "channels": _channels(d)}
        for d in dicts
        if _is_triple(d.get("mean")) and _is_triple(d.get("std"))
    ]
    return _agreed(found) or {}


def _channels(normalise: Mapping[str, Any]) -> str:
    """The order that the network takes; pictures are read as BGR."""
    swaps = "PreProcessor" not in _text(normalise.get("type"))  # the default of Normalize alone
    for name in ("to_rgb", "bgr_to_rgb"):
        swaps = normalise[name] is not False if name in normalise else swaps
    return "rgb" if swaps else "bgr"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _agreed(values: list[Any]) -> Any:
    """The one value that all are, or None."""
    kept = [value for value in values if value is not None]
    return kept[0] if kept and all(value == kept[0] for value in kept) else None


def _past(value: Any) -> list[int] | None:
    """Offsets of past frames; this frame, 0, is left out."""
    if not isinstance(value, list) or not all(type(n) is int and n <= 0 for n in value):
        return None
    return [n for n in value if n] or None


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and _is_numbers(value)


def _is_numbers(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return bool(parts) and all(type(part) in (int, float) for part in parts)


def _check(values: Mapping[str, Any]) -> None:
    """Refuse what no tensor shows and the networks here do not have."""
    if _head(values).get("align_corners") is True:
        raise CheckpointError(
            "its configuration has align_corners True in decode_head, expected False: the "
            "networks here resize without it"
        )
    for entry in _dicts(values):
        batch = entry.get("type") in ("BN", "BN2d", "SyncBN")
        if batch and entry.get("eps", BATCH_NORM_EPS) != BATCH_NORM_EPS:
            raise CheckpointError(
                f"its configuration has batch norm with eps {entry['eps']}, expected 1e-5"
            )

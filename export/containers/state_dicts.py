"""The network's tensors inside what a training framework saved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor

from streamseg.export.containers.pickle_machine import StandIn
from streamseg.export.containers.tensor_records import ArrayRecord, TensorRecord

# Where frameworks put the weights, the plain ones before averaged copies.
_PLACES = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "ema",
    "teacher",
    "student",
)
# Inserted by torch.compile, FSDP and activation checkpointing at any depth.
_WRAPPERS = re.compile(
    r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)(?=\.)"
)
_FLAT = re.compile(r"(^|\.)_?flat_param(_\d+)?$")
_MOST_DEPTH = 5
_MOST_NESTED = 16
_LONGEST_KEY = 500
_MOST_ENTRIES = 100_000
MOST_COPIES = 8
"""Tensors may add up to this many times the file: views and tied weights share its bytes."""
_SMALL = 1 << 20
_MOST_VALUES = 20_000


@dataclass(frozen=True)
class StateDict:
    """Named tensors, and what was beside them.

    Attributes:
        tensors: under the names of the file, without the wrappers of torch.compile and FSDP.
        place: the keys that lead to them.
        beside: top-level entries that hold other tensors (optimisers, averaged copies).
    """

    tensors: dict[str, Tensor]
    place: tuple[str, ...] = ()
    beside: tuple[str, ...] = field(default=())


def find_state_dict(value: Any, size: int) -> StateDict:
    """The weights in a file's value.

    Args:
        value: from ``read_content``.
        size: bytes of the file; the tensors may be a small multiple of it.
    Raises:
        ValueError: there are none, or only such as cannot be used; the message says why.
    """
    place = _find(value, set())
    if place is None:
        raise ValueError(_describe(value))
    found = _descend(value, place)
    records = {key: entry for key, entry in _entries(found) if _is_tensor(entry)}
    if any(len(key) > _LONGEST_KEY for key in records):
        raise ValueError(f"a key is longer than {_LONGEST_KEY} characters")
    if any(_FLAT.search(key) for key in records):
        raise ValueError(
            "it is one shard of FSDP's flattened parameters; save a full state dict "
            "(StateDictType.FULL_STATE_DICT)"
        )
    if sum(_bytes(entry) for entry in records.values()) > MOST_COPIES * size + _SMALL:
        raise ValueError(f"its tensors add up to more than {MOST_COPIES} times the file")
    tensors = {_WRAPPERS.sub(r"\1", key).replace("..", ".").lstrip("."): _tensor(key, entry)
               for key, entry in records.items()}  # fmt: skip
    if tensors and all(value.numel() == 0 for value in tensors.values()):
        raise ValueError(
            "its tensors are empty: one part of a partitioned DeepSpeed checkpoint (ZeRO 3); "
            "join the parts with zero_to_fp32.py, which stands beside them"
        )
    beside = [str(key) for key, entry in _entries(value) if not place or key != place[0]]
    kept = tuple(key for key in beside if place and _holds_tensors(_child(value, key)))
    return StateDict(tensors, place, kept)


def plain(value: Any) -> Any:
    """Text, numbers and containers of them; objects become their state, the rest ``None``.

    Bounded in depth and number, so that a value that contains itself ends.
    """
    return _plain(value, [_MOST_VALUES], 0)


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > _MOST_NESTED:
        return None
    if isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, StandIn):
        value = value.entries or value.state
    if isinstance(value, Mapping):
        return {
            str(key): _plain(entry, budget, depth + 1)
            for key, entry in islice(value.items(), _MOST_VALUES)
            if isinstance(key, (str, int)) and budget[0] > 0
        }
    if isinstance(value, (list, tuple)):
        values = islice(value, _MOST_VALUES)
        return [_plain(entry, budget, depth + 1) for entry in values if budget[0] > 0]
    return None


def _find(value: Any, seen: set[int], depth: int = 0) -> tuple[str, ...] | None:
    """The keys that lead to the first place with named tensors."""
    if id(value) in seen or depth > _MOST_DEPTH:
        return None
    seen.add(id(value))
    entries = dict(_entries(value))
    for name in _PLACES:
        if name in entries and not _is_tensor(entries[name]):
            below = _find(entries[name], seen, depth + 1)
            if below is not None:
                return (name, *below)
    return () if any(_is_tensor(entry) for entry in entries.values()) else None


def _descend(value: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        value = _child(value, name)
    return value


def _child(value: Any, name: str) -> Any:
    return dict(_entries(value)).get(name)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The named entries of a dictionary, or the parameters of a whole model that was pickled."""
    if isinstance(value, StandIn):
        if isinstance(value.state, Mapping) and "_modules" in value.state:
            yield from islice(_module_entries(value.state, "", 0), _MOST_ENTRIES)
            return
        value = value.entries or value.state
    if isinstance(value, Mapping):
        yield from ((key, entry) for key, entry in value.items() if isinstance(key, str))


def _module_entries(state: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for group in ("_parameters", "_buffers"):
        entries = state.get(group)
        if isinstance(entries, Mapping):
            yield from ((prefix + key, v) for key, v in entries.items() if isinstance(key, str))
    children = state.get("_modules")
    if not isinstance(children, Mapping) or depth > _MOST_NESTED:
        return
    for name, child in children.items():
        known = isinstance(name, str) and isinstance(child, StandIn)
        if known and isinstance(child.state, Mapping):
            yield from _module_entries(child.state, f"{prefix}{name}.", depth + 1)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, TensorRecord)) or (
        isinstance(value, ArrayRecord) and bool(value.code)
    )


def _bytes(value: Any) -> int:
    return value.nbytes if isinstance(value, (TensorRecord, ArrayRecord)) else 0


def _tensor(key: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        found: Tensor = value.tensor()
    except ValueError as error:
        raise ValueError(f"{key[:80]}: {error}") from None
    return found


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    if _is_tensor(value):
        return True
    if isinstance(value, StandIn):
        value = value.entries or value.state
    children = value.values() if isinstance(value, Mapping) else value
    if depth > 2 or not isinstance(value, (Mapping, list, tuple)):
        return False
    return any(_holds_tensors(child, depth + 1) for child in islice(children, 50))


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = [str(key)[:40] for key in list(value)[:6] if isinstance(key, (str, int))]
        return f"it holds no tensors; its keys: {', '.join(keys) or 'none'}"
    name = value.name[:80] if isinstance(value, StandIn) else type(value).__name__
    return f"it holds a {name}, expected named tensors"

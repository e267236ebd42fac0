"""Reading JSON field by field: each value checked, each error naming its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from streamseg.errors import BundleError

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_MAX_KEY = 200
_MISSING: Any = object()


class Fields:
    """A JSON object being read; ``where`` is its place in the manifest, for messages."""

    def __init__(self, content: Any, where: str) -> None:
        self.where = where
        self.content: dict[str, Any] = require(content, mapping, where or "the manifest")

    def get(self, name: str, read: Callable[[Any], T], default: T = _MISSING) -> T:
        """The field ``name``, read; raises BundleError where it is missing or wrong."""
        place = f"{self.where}{name}"
        if name not in self.content:
            if default is _MISSING:
                raise BundleError(f"manifest.json has no '{place}'")
            return default
        return require(self.content[name], read, place)

    def object(self, name: str) -> Fields:
        """The object ``name``."""
        return Fields(self.get(name, mapping), f"{self.where}{name}.")

    def objects(self, name: str) -> list[Fields]:
        """The array of objects ``name``."""
        entries = self.get(name, array)
        return [Fields(entry, f"{self.where}{name}[{i}].") for i, entry in enumerate(entries)]

    def named_objects(self, name: str) -> list[tuple[str, Fields]]:
        """The object of objects ``name``, with their keys."""
        entries = self.get(name, mapping)
        return [
            (key, Fields(entry, f"{self.where}{name}.{key}.")) for key, entry in entries.items()
        ]


def require(value: Any, read: Callable[[Any], T], place: str) -> T:
    """What ``read`` makes of a value; its ValueError becomes a BundleError that names the place."""
    try:
        return read(value)
    except ValueError as error:
        shown = json.dumps(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise BundleError(f"manifest.json: '{place}' is {shown}, expected {error}") from None


def mapping(value: Any) -> dict[str, Any]:
    """An object; its keys appear in messages, so each is one printable line."""
    if not isinstance(value, dict):
        raise ValueError("an object")
    if not all(key.isprintable() and len(key) <= _MAX_KEY for key in value):
        raise ValueError(f"an object with printable keys of at most {_MAX_KEY} characters")
    return value


def array(value: Any) -> list[Any]:
    """An array."""
    if not isinstance(value, list):
        raise ValueError("an array")
    return value


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def name_text(value: Any) -> str:
    """A name of letters, digits, '.', '_' and '-'."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("a name of letters, digits, '.', '_' and '-'")
    return value


def one_of(*choices: str) -> Callable[[Any], str]:
    """A reader of one of these texts."""

    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return str(value)

    return read


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A reader of a whole number from ``low`` to ``high``."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return read


def number(value: Any) -> float:
    """A finite number below 1e9 in magnitude."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise ValueError("a number")
    return float(value)


def series(read: Callable[[Any], T], length: int | None = None) -> Callable[[Any], tuple[T, ...]]:
    """A reader of an array, of that length if given."""

    def read_all(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise ValueError("an array" if length is None else f"an array of {length}")
        return tuple(read(entry) for entry in value)

    return read_all


def unique_names(value: Any) -> tuple[str, ...]:
    """An array of names that differ."""
    names = series(name_text)(value)
    if len(set(names)) != len(names):
        raise ValueError("names that differ")
    return names

"""Settings: the parts of a network's configuration that no tensor shape shows.

A family's configuration class declares them as fields made by ``setting``. A value comes from the
checkpoint, from the caller (``--set name=value``), or, where neither has one, from the publication;
then it is *assumed*, and everything that shows the network says so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamseg.errors import CheckpointError
from streamseg.runtime.bundle.claims import format_setting

Known = Mapping[str, Any]
Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: of the field, and in ``--set``.
        summary: what it is.
        expected: the values it takes, for messages.
        read: text or a JSON value to the field's value; ValueError for any other.
        published: the publication's value, given the settings before it and ``encoder``; None
            where there is none, so that the setting must be given.
    """

    name: str
    summary: str
    expected: str
    read: Read
    published: Callable[[Known], Any]


def setting(
    summary: str, *, expected: str, read: Read, published: Callable[[Known], Any] | None = None
) -> dict[str, Any]:
    """Metadata of a dataclass field that is a setting; ``published``: not the field's default."""
    return {
        "setting": {
            "summary": summary,
            "expected": expected,
            "read": read,
            "published": published,
        }
    }


def settings_of(*configurations: Any) -> dict[str, Setting]:
    """The settings that configuration classes declare, in the order of their fields."""
    return {
        entry.name: _as_setting(entry)
        for configuration in configurations
        for entry in dataclasses.fields(configuration)
        if "setting" in entry.metadata
    }


def _as_setting(entry: dataclasses.Field[Any]) -> Setting:
    parts = dict(entry.metadata["setting"])
    default = entry.default
    parts["published"] = parts["published"] or (lambda _known: default)
    return Setting(entry.name, **parts)


@dataclass(frozen=True)
class Resolved:
    """Values of all settings of a network, and those of them that were assumed."""

    values: dict[str, Any]
    assumed: dict[str, Any]


def resolve(
    settings: Mapping[str, Setting],
    *,
    family: str,
    encoder: str,
    stated: Known,
    given: Known,
    override: bool = False,
) -> Resolved:
    """Decide the value of every setting.

    Args:
        settings: of the family.
        family: for messages.
        encoder: its name, for what is published of it.
        stated: what the checkpoint says; names that are not settings are left to the caller.
        given: what the caller asks for.
        override: let ``given`` win over ``stated``; what differs is listed as assumed.
    Raises:
        CheckpointError: an unknown name, a value out of range, a value that contradicts the
            checkpoint, or one that nobody gives.
    """
    _require_known(settings, family, given)
    values: dict[str, Any] = {}
    assumed: dict[str, Any] = {}
    for name, entry in settings.items():
        said = _read(entry, stated[name], "in the file") if name in stated else None
        asked = _read(entry, given[name], "in --set") if name in given else None
        if said is not None and asked is not None and said != asked:
            if override:
                values[name] = assumed[name] = asked
                continue
            raise CheckpointError(
                f"{name} is {format_setting(asked)} in --set, but the file says "
                f"{format_setting(said)}: the network was trained with that. Leave out --set {name}"
            )
        value = asked if said is None else said
        if value is None:
            value = entry.published({**values, "encoder": encoder})
            if value is None:
                raise CheckpointError(
                    f"the file does not record {name} ({entry.summary}), and no value is published "
                    f"for {family} with encoder {encoder}: add --set {name}=VALUE, "
                    f"{entry.expected}"
                )
            assumed[name] = value
        values[name] = value
    return Resolved(values, assumed)


def read_given(settings: Mapping[str, Setting], family: str, given: Known) -> dict[str, Any]:
    """Values of the settings in ``given`` alone, checked; for networks that have no file yet.

    Raises:
        CheckpointError: an unknown name, or a value out of range.
    """
    _require_known(settings, family, given)
    return {name: _read(settings[name], value, "in --set") for name, value in given.items()}


def _require_known(settings: Mapping[str, Setting], family: str, names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in settings]
    if unknown:
        known = ", ".join(f"{entry.name} ({entry.expected})" for entry in settings.values())
        raise CheckpointError(f"{family} has no setting '{unknown[0]}'; its settings: {known}")


def _read(entry: Setting, value: Any, whose: str) -> Any:
    try:
        return entry.read(value)
    except (ValueError, TypeError):
        shown = value if isinstance(value, str) else format_setting(value)
        raise CheckpointError(
            f"{entry.name} is {shown} {whose}, expected {entry.expected}"
        ) from None


def read_numbers(value: Any, count: int | None = None) -> tuple[float, ...]:
    """Numbers from text such as ``"1,2.5"``, a list, or one number; ValueError otherwise."""
    parts = value.split(",") if isinstance(value, str) else value
    entries = list(parts) if isinstance(parts, (list, tuple)) else [parts]
    if any(isinstance(entry, bool) for entry in entries):
        raise ValueError("numbers")
    numbers = tuple(float(entry) for entry in entries)
    if not all(abs(number) < 1e9 for number in numbers) or count not in (None, len(numbers)):
        raise ValueError("finite numbers")
    return numbers


def read_whole_numbers(value: Any) -> tuple[int, ...]:
    """Whole numbers, as ``read_numbers``."""
    numbers = read_numbers(value)
    if any(number != int(number) for number in numbers):
        raise ValueError("whole numbers")
    return tuple(int(number) for number in numbers)


def read_pair(low: int) -> Read:
    """A reader of (height, width), or of one number for both, each at least ``low``."""

    def read(value: Any) -> tuple[int, int]:
        numbers = read_whole_numbers(value)
        if len(numbers) not in (1, 2) or min(numbers) < low:
            raise ValueError("one or two whole numbers")
        return numbers[0], numbers[-1]

    return read


def read_triple(value: Any) -> tuple[float, float, float]:
    """Three numbers, one for each of red, green and blue."""
    red, green, blue = read_numbers(value, 3)
    return red, green, blue


def read_share(value: Any) -> float:
    """A number above 0, at most 1."""
    (share,) = read_numbers(value, 1)
    if not 0 < share <= 1:
        raise ValueError("a share")
    return share


def read_count(low: int) -> Read:
    """A reader of one whole number of at least ``low``."""

    def read(value: Any) -> int:
        (count,) = read_whole_numbers(value)
        if count < low:
            raise ValueError("a whole number")
        return count

    return read


def contradictions(described: Known, stated: Known) -> list[str]:
    """What a file says of its network and its tensors deny, as "name is A by ..., B by ..."."""
    return [
        f"{name} is {format_setting(stated[name])} in its metadata and {format_setting(value)} by "
        "its tensors"
        for name, value in described.items()
        if name in stated and _plain(stated[name]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))

"""Options as dataclass fields: type, default, range, choices and help stand in one place.

The command line, lists of streams (TOML), source addresses and the dataclasses' own checks read
them with ``option_fields``.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from streamseg.destinations import Destination
from streamseg.errors import StreamsegError

KEY = "option"
OFF = math.inf  # a threshold that nothing reaches
_BOOLEANS = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
_EXPECTED = {str: "a text", float: "a number", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """The details of an option beyond its type and default.

    Attributes:
        text: help of the command line, a sentence.
        low, high: range, inclusive.
        above: the value must be greater than this.
        off: the word ``off`` is accepted, as infinity.
        choices: accepted values; a ``Literal`` needs none.
        metavar: placeholder of the value in help.
        short: a second flag of one letter, such as ``-o``.
        flag: long flag without dashes; the field's name by default.
        opposite: flag that sets False; ``no-`` and the name by default.
        unset: what ``None`` means, for help.
        common: listed first in help.
        written: what the command writes at this path; None where it only reads.
    """

    text: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    off: bool = False
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    short: str | None = None
    flag: str | None = None
    opposite: str | None = None
    unset: str | None = None
    common: bool = False
    written: Destination | None = None


@dataclass(frozen=True)
class OptionField:
    """A field with its option.

    Attributes:
        name: of the field.
        kind: ``bool``, ``int``, ``float``, ``str``, ``Path``, or a tuple or mapping type.
        optional: ``None`` is accepted.
        default: ``MISSING`` where a value must be given.
        option: the details.
    """

    name: str
    kind: Any
    optional: bool
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """Long flag without dashes; also the key in TOML and after ``#``."""
        return self.option.flag or self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """Accepted values; empty where any text is."""
        return self.option.choices or (get_args(self.kind) if self._is_literal else ())

    @property
    def plain(self) -> type:
        """``kind`` with ``Literal`` as ``str``."""
        return str if self._is_literal else self.kind

    @property
    def _is_literal(self) -> bool:
        return get_origin(self.kind) is Literal


def option(text: str, *, default: Any = MISSING, factory: Any = MISSING, **details: Any) -> Any:
    """A dataclass field that is an option; ``details`` are the attributes of ``Option``."""
    metadata = {KEY: Option(text=text, **details)}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8", "int8-dynamic")
"""Every word that ``--precision`` takes in some command."""


def precision_option(**details: Any) -> Any:
    """Precision of the layers' arithmetic, the same words in every command."""
    text = "Precision of the layers' arithmetic; docs/precision.md explains the choices."
    return option(text, **details)


@lru_cache
def option_fields(owner: type) -> tuple[OptionField, ...]:
    """The fields of a dataclass that are options, in their order."""
    hints = get_type_hints(owner)
    found = []
    for entry in fields(owner):
        if KEY not in entry.metadata:
            continue
        kind, optional = _split_optional(hints[entry.name])
        default = entry.default
        if entry.default_factory is not MISSING:
            default = entry.default_factory()
        found.append(OptionField(entry.name, kind, optional, default, entry.metadata[KEY]))
    return tuple(found)


def _split_optional(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    (inner,) = [part for part in get_args(kind) if part is not type(None)]
    return inner, True


def check_options(instance: Any, failure: type[StreamsegError], subject: str = "") -> None:
    """Check the values of a dataclass's options: ranges, choices, paths that are written.

    Args:
        instance: the dataclass.
        failure: error to raise.
        subject: what the options belong to, for the message.
    Raises:
        failure: a value is out of its range, not one of the choices, or a path that cannot be
            written.
    """
    owner: Any = type(instance)
    for entry in option_fields(owner):
        value = getattr(instance, entry.name)
        if entry.option.written is not None and isinstance(value, (str, Path)):
            entry.option.written.read(value, failure)
        problem = _find_problem(entry, value)
        if problem:
            owner = f" of {subject}" if subject else ""
            raise failure(f"{entry.name}{owner} is {value!r}, expected {problem}")


def _find_problem(entry: OptionField, value: Any) -> str:
    """What was expected instead of ``value``; empty where it is valid."""
    if value is None:
        return "" if entry.optional else "a value"
    if entry.choices:
        return "" if value in entry.choices else "one of " + ", ".join(entry.choices)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    said, rule = entry.option, describe_range(entry.option)
    if value == OFF and said.off:
        return ""
    inside = (
        math.isfinite(value)
        and (said.low is None or value >= said.low)
        and (said.high is None or value <= said.high)
        and (said.above is None or value > said.above)
    )
    return "" if inside else rule or "a finite number"


def describe_range(said: Option) -> str:
    """An option's range in words; empty where it has none."""
    if said.above is not None:
        text = f"a number above {said.above:g}"
        text += "" if said.high is None else f", up to {said.high:g}"
    elif said.low is not None:
        text = f"{said.low:g} or more" if said.high is None else f"{said.low:g} to {said.high:g}"
    else:
        return ""
    return f"{text}, or 'off'" if said.off else text


def read_value(entry: OptionField, value: object, where: str, failure: type[StreamsegError]) -> Any:
    """A value from a TOML file for an option.

    Raises:
        failure: it has another type.
    """
    if value == "off" and entry.option.off:
        return OFF
    checks: dict[type, Callable[[], bool]] = {
        bool: lambda: isinstance(value, bool),
        int: lambda: isinstance(value, int) and not isinstance(value, bool),
        float: lambda: isinstance(value, (int, float)) and not isinstance(value, bool),
    }
    if not checks.get(entry.plain, lambda: isinstance(value, str))():
        raise failure(f"{where} is not {_EXPECTED.get(entry.plain, 'a text')}")
    if entry.option.written is not None:
        return read_destination(entry.option.written, str(value), where, failure)
    return entry.plain(value)


def read_destination(
    written: Destination, text: str, where: str, failure: type[StreamsegError]
) -> Path:
    """A path from a TOML file for an output.

    Raises:
        failure: the output does not accept it.
    """
    try:
        return written.read(text, failure)
    except StreamsegError as error:
        raise failure(f"{where}: {error}") from None


def read_text(
    entry: OptionField, text: str | None, where: str, failure: type[StreamsegError]
) -> Any:
    """A value from text for an option; ``None`` stands for a flag without a value.

    Raises:
        failure: the text is not of the option's type.
    """
    if text == "off" and entry.option.off:
        return OFF
    if entry.choices and text not in entry.choices:
        # The text is not repeated: in an address it may be a part of a password.
        raise failure(f"{where} expects one of {', '.join(entry.choices)}")
    try:
        if entry.plain is bool:
            return True if text is None else _BOOLEANS[text.lower()]
        return entry.plain(text or "")
    except (KeyError, ValueError):
        expected = "yes or no" if entry.plain is bool else _EXPECTED[entry.plain]
        raise failure(f"{where} expects {expected}") from None

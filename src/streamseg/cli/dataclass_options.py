"""Click options generated from the fields of dataclasses (``streamseg.option_fields``)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from streamseg.cli.value_types import OFFSETS, PLACE, RANGE, SIZE, THRESHOLD, OutputType
from streamseg.option_fields import Option, OptionField, option_fields

Command = TypeVar("Command", bound=Callable[..., Any])
COMMON = "Common options"
# Between the numbers of a default, as they are typed.
_MARKS = {tuple[int, int]: "x", tuple[float, float]: "-"}
# Given once for each element.
_REPEATED = {tuple[str, ...]: click.STRING, tuple[Path, ...]: PLACE}
_METAVARS = {int: "N", float: "NUMBER"}
_TYPES: dict[Any, click.ParamType[Any]] = {
    str: click.STRING,
    bool: click.BOOL,
    int: click.INT,
    float: click.FLOAT,
    Path: PLACE,
    tuple[int, int]: SIZE,
    tuple[float, float]: RANGE,
    tuple[int, ...]: OFFSETS,
}


class GroupedOption(click.Option):
    """An option under a heading of the help text, with the dataclass field that it comes from."""

    def __init__(
        self,
        *args: Any,
        group: str = COMMON,
        field: OptionField | None = None,
        **details: Any,
    ) -> None:
        super().__init__(*args, **details)
        self.group, self.field = group, field


def grouped(*flags: str, **details: Any) -> Callable[[Command], Command]:
    """``click.option`` with ``group``, the heading in the help text."""
    return click.option(*flags, cls=GroupedOption, **details)


def refuse_given(context: click.Context, taker: str, *names: str) -> None:
    """Raise UsageError where an option that would be ignored was given.

    Args:
        context: of the command.
        taker: what ignores it, such as ``--backend openvino``.
        names: of the options' arguments.
    """
    for entry in context.command.params:
        source = context.get_parameter_source(entry.name) if entry.name in names else None
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{entry.opts[-1]} does not apply to {taker}")


def dataclass_options(
    owner: type,
    into: str,
    group: str,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    common: Collection[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a dataclass as one argument.

    Args:
        owner: the dataclass; fields that are not options keep their defaults.
        into: name of the command's argument; gets an instance.
        group: heading in the help text.
        only: fields to offer; None offers all.
        without: fields to leave out.
        defaults: field -> default of this command.
        common: fields listed first in the help text, besides those that say so themselves.
    """
    chosen = [
        entry
        for entry in option_fields(owner)
        if (only is None or entry.name in only) and entry.name not in without
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            values = {entry.name: given.pop(entry.name) for entry in chosen}
            return function(*args, **{into: owner(**values)}, **given)

        decorated: Callable[..., Any] = call
        for entry in reversed(chosen):
            default = (defaults or {}).get(entry.name, entry.default)
            first = entry.option.common or entry.name in common
            decorated = _make_option(entry, default, COMMON if first else group)(decorated)
        return decorated

    return decorate


def _make_option(
    entry: OptionField, default: Any, group: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    said = entry.option
    details: dict[str, Any] = {
        "help": said.text,
        "group": group,
        "field": entry,
        "metavar": said.metavar or _metavar(entry),
    }
    if default is MISSING:
        details["required"] = True
    elif default is not None:
        details |= {"default": _shown(entry, default), "show_default": True}
    elif said.unset:
        details["show_default"] = said.unset
    flags = [said.short] if said.short else []
    if entry.plain is bool:
        flags.append(_boolean_flag(entry, default))
        details["is_flag"] = True
        if "/" not in flags[-1]:
            details["show_default"] = False
    elif entry.kind in _REPEATED:
        flags.append(f"--{entry.flag}")
        details |= {"multiple": True, "show_default": False, "type": _REPEATED[entry.kind]}
    else:
        flags.append(f"--{entry.flag}")
        details["type"] = value_type(entry)
    kept = {name: value for name, value in details.items() if value is not None}
    if entry.plain is bool:
        kept["default"] = default  # None: neither flag is given
    return grouped(*flags, entry.name, **kept)


def _metavar(entry: OptionField) -> str | None:
    return None if entry.choices or entry.option.off else _METAVARS.get(entry.plain)


def _boolean_flag(entry: OptionField, default: Any) -> str:
    """A flag alone where it can only turn something on."""
    if default is False and entry.option.opposite is None:
        return f"--{entry.flag}"
    return f"--{entry.flag}/--{entry.option.opposite or 'no-' + entry.flag}"


def _shown(entry: OptionField, default: Any) -> Any:
    """A default as it would be typed."""
    if isinstance(default, tuple):
        mark = _MARKS.get(entry.kind, ",")
        return mark.join(f"{part:g}" for part in default) if default else ()
    return "off" if default == math.inf else default


def value_type(entry: OptionField) -> click.ParamType[Any]:
    """The click type that reads a value of a field and checks its range."""
    said = entry.option
    if entry.choices:
        return click.Choice(entry.choices)
    if said.off:
        return THRESHOLD
    if said.written is not None:
        return OutputType(said.written)
    if entry.plain is int and _is_bounded(said):
        return click.IntRange(_whole(said.low), _whole(said.high))
    if entry.plain is float and _is_bounded(said):
        low = said.low if said.above is None else said.above
        return click.FloatRange(low, said.high, min_open=said.above is not None)
    return _TYPES[entry.plain]


def _is_bounded(said: Option) -> bool:
    return (said.low, said.high, said.above) != (None, None, None)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)

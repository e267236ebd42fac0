"""``--set name=value``: settings of a checkpoint's network, the same in every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
# Options of earlier versions, which said what --set says.
_REMOVED = {
    "--window": "window",
    "--shift": "shift",
    "--keep-ratio": "keep_ratio",
    "--key-every": "key_interval",
}


def read_settings(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """``("window=2", "shift=1")`` to a dictionary."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name or not value:
            raise click.BadParameter(
                f"{text!r}: expected NAME=VALUE, such as window=20", context, option
            )
        if found.get(name, value) != value:
            raise click.BadParameter(
                f"{name} is given twice, as {found[name]} and {value}", context, option
            )
        found[name] = value
    return found


def setting_options(command: Command) -> Command:
    """Add ``settings``, and errors that name ``--set`` in the place of removed options."""
    for flag in _REMOVED:
        command = click.option(
            flag, hidden=True, expose_value=False, callback=_refuse, help="Removed."
        )(command)
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        callback=read_settings,
        help="Setting of the network that the checkpoint does not give, e.g. window=20; repeat it "
        "for more. docs/models.md lists them.",
    )(command)


def _refuse(_context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        flag = option.opts[0]
        raise click.UsageError(f"{flag} was removed: write --set {_REMOVED[flag]}={value}")

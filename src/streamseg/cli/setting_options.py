"""``--set name=value``: settings of a checkpoint's network, the same in every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from streamseg.cli.dataclass_options import grouped


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


def setting_options(group: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``settings`` under a heading."""
    return grouped(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        callback=read_settings,
        group=group,
        help="Setting of the network that the checkpoint does not record, e.g. window=20; may be "
        "repeated. docs/models.md lists them.",
    )

"""The click command of every sub-command: help in groups, examples, hints for removed options."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

from streamseg.cli.dataclass_options import COMMON, GroupedOption
from streamseg.redaction import RedactingFilter

GENERAL = "General"


class Subcommand(click.Command):
    """A command with examples, ``-v`` and ``--debug``, and hints for options of earlier versions.

    Args:
        examples: command lines, without ``streamseg``.
        removed: flag -> what to write instead.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        removed: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(*args, **details)
        self.examples = tuple(examples)
        self.removed = dict(removed or {})
        self.params += logging_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and name the new form where an option of an earlier version is given."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = self.removed.get(error.option_name)
            if hint is None:
                raise
            raise click.UsageError(f"{error.option_name} was removed: {hint}", ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, the common ones first, then the examples."""
        groups: dict[str, list[tuple[str, str]]] = {COMMON: []}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                group = param.group if isinstance(param, GroupedOption) else GENERAL
                groups.setdefault(group, []).append(record)
        general = groups.pop(GENERAL)
        for heading, records in (*groups.items(), (GENERAL, general)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}streamseg {example}\n")


def subcommand(
    name: str, *, examples: Sequence[str], removed: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Subcommand]:
    """Make a function a sub-command; see ``Subcommand``."""
    return click.command(name, cls=Subcommand, examples=examples, removed=removed)


def logging_options() -> list[click.Parameter]:
    """``-v`` and ``--debug``; they work before and after the sub-command."""
    return [
        GroupedOption(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_log_from(logging.INFO),
            group=GENERAL,
            help="Log what is done.",
        ),
        GroupedOption(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_log_from(logging.DEBUG),
            group=GENERAL,
            help="Log details, and show tracebacks.",
        ),
    ]


def _log_from(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    """Log from this level on if the flag is given; a second flag can only show more."""

    def call(_context: click.Context, _option: click.Parameter, value: bool) -> None:
        logger = logging.getLogger("streamseg")
        if value:
            logger.setLevel(min(level, logger.level or level))

    return call


def start_logging() -> None:
    """Log warnings to standard error, without secrets."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.addFilter(RedactingFilter())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("streamseg").setLevel(logging.WARNING)


def split_examples(command: Subcommand) -> list[list[str]]:
    """The examples as arguments."""
    return [shlex.split(example) for example in command.examples]

"""Option types that several sub-commands share."""

from __future__ import annotations

import re
from pathlib import Path

import click

from streamseg.errors import StreamsegError
from streamseg.files import check_place


class SizeType(click.ParamType[tuple[int, int]]):
    """A size written HxW, always height first."""

    name = "HxW"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """``"512x1024"`` to ``(512, 1024)``."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", value)
        if match is None:
            self.fail(f"'{value}' is no size; write height x width, e.g. 512x1024", param, ctx)
        return int(match[1]), int(match[2])


class OutputFileType(click.ParamType[Path]):
    """A file to write at the end; that it cannot be is told before the work."""

    name = "FILE"

    def convert(
        self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """The path; its folder is made."""
        path = Path(value)
        try:
            check_place(path, StreamsegError)
        except StreamsegError as error:
            self.fail(str(error), param, ctx)
        return path


SIZE = SizeType()
OUTPUT_FILE = OutputFileType()
classes_by_option = click.option(
    "--classes-by",
    type=click.Choice(["name", "position"]),
    default="name",
    show_default=True,
    help="Match classes by their names, or class 0 with class 0 and so on.",
)

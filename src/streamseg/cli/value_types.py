"""Types of option values beyond click's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from streamseg.destinations import FOLDER, Destination
from streamseg.errors import StreamsegError
from streamseg.option_fields import OFF


class SizeType(click.ParamType[tuple[int, int]]):
    """A size written HxW, height first."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """``"512x1024"`` to ``(512, 1024)``."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", value)
        if match is None:
            self.fail(f"'{value}' is not a size; write height x width, e.g. 512x1024", param, ctx)
        return int(match[1]), int(match[2])


class RangeType(click.ParamType[tuple[float, float]]):
    """A range of numbers written LOW-HIGH."""

    name = "LOW-HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """``"0.5-2"`` to ``(0.5, 2.0)``."""
        if isinstance(value, tuple):
            return value
        low, dash, high = value.partition("-")
        try:
            return float(low), float(high if dash else low)
        except ValueError:
            self.fail(f"{value!r}: expected LOW-HIGH such as 0.5-2", param, ctx)


class OffsetsType(click.ParamType[tuple[int, ...]]):
    """Whole numbers separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """``"-9,-6,-3,0"`` to numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers separated by commas, as in 8,16", param, ctx)


class ThresholdType(click.ParamType[float]):
    """A number above 0, or ``off``, which is infinity."""

    name = "NUMBER|off"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; infinity for ``off``."""
        if value == "off":
            return OFF
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not number > 0:
            self.fail(f"{value!r} is neither a number above 0 nor 'off'", param, ctx)
        return number


class OutputType(click.ParamType[Path]):
    """A path that is written; one that cannot be is reported before any work is done."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.name = "path" if destination.folder else "file"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,  # noqa: ARG002
    ) -> Path:
        """The path; where ``{stream}`` stands for a name, it is checked when that is known.

        Raises:
            StreamsegError: it cannot be written.
        """
        try:
            path = self.destination.read(value, StreamsegError)
            if "{stream}" not in str(value):
                self.destination.check(path, StreamsegError)
        except StreamsegError as error:
            flag = f"{param.opts[-1]}: " if param is not None else ""
            raise StreamsegError(f"{flag}{error}") from None
        return path


class OutputUrlType(click.ParamType[str]):
    """A folder that is written, or an fsspec URL, whose place is not known here."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, or the URL as it was given."""
        is_url = "://" in value
        return str(value if is_url else OutputType(FOLDER).convert(value, param, ctx))


SIZE, RANGE, OFFSETS, THRESHOLD = SizeType(), RangeType(), OffsetsType(), ThresholdType()
PLACE = click.Path(path_type=Path)

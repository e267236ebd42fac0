"""Frame sizes on the command line: HxW."""

from __future__ import annotations

import re

import click


class SizeType(click.ParamType[tuple[int, int]]):
    """``512x1024`` to (512, 1024): height first."""

    name = "HxW"

    def convert(
        self,
        value: str | tuple[int, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, int]:
        """Parse, or fail with what was given."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
        if match is None or not int(match[1]) or not int(match[2]):
            self.fail(f"{value!r} is not a size: expected HxW, such as 512x1024", param, ctx)
        return int(match[1]), int(match[2])


SIZE = SizeType()

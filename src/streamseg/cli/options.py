"""Option types that several sub-commands share."""

from __future__ import annotations

import re

import click


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


SIZE = SizeType()

"""Options of how a bundle is opened, for the commands that stream with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
PLACE = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--letterbox/--stretch", default=None, help="Keep the aspect of frames, or not."),
    click.option("--backend", default="auto", show_default=True, help="What runs the graphs."),
    click.option("--native/--no-native", default=None, help="Demand or refuse native operators."),
    click.option("--library", type=PLACE, help="Native library to use, an absolute path."),
    click.option("--engine", type=PLACE, help="TensorRT engine, or folder of several."),
    click.option("--device", help="OpenVINO's name of a device: CPU, GPU, GPU.1, NPU."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "f32", "bf16", "f16"]),
        help="OpenVINO's arithmetic; auto: bf16 where the processor has it.",
    ),
)


def opening_options(command: Command) -> Command:
    """Add the options of ``streamseg.open`` but ``threads`` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command

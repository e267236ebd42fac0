"""``--json``: results as JSON, in a file or on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from streamseg.cli.dataclass_options import grouped
from streamseg.cli.value_types import OutputType
from streamseg.destinations import JSON
from streamseg.evaluation.scores import write_json
from streamseg.files import STDOUT

json_option = grouped(
    "--json",
    "json_path",
    type=OutputType(JSON),
    help="Write the results as JSON to FILE; '-' is standard output.",
)


def open_console(json_path: Path | None) -> Console:
    """Where tables are printed: standard error when JSON goes to standard output."""
    return Console(stderr=json_path == STDOUT)


def write_result(content: Mapping[str, Any], json_path: Path | None) -> None:
    """Write JSON where ``--json`` says; nothing without it."""
    if json_path == STDOUT:
        click.echo(json.dumps(content, indent=2))
    elif json_path is not None:
        write_json(dict(content), json_path)

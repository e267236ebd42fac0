"""``streamseg doctor``: whether this machine can run bundles, and how to fix what prevents it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from streamseg.cli.dataclass_options import grouped
from streamseg.cli.results import json_option, write_result
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import STDOUT
from streamseg.doctor import NEEDS, examine, missing_for


@subcommand("doctor", examples=("doctor", "doctor --for tensorrt --json -"))
@grouped(
    "--for",
    "purpose",
    type=click.Choice(list(NEEDS)),
    default="cpu",
    show_default=True,
    help="Backend that must be ready: the CPU, OpenVINO, ONNX Runtime on a GPU, or TensorRT.",
)
@json_option
def command(purpose: str, json_path: Path | None) -> int:
    """Check this machine and suggest fixes. Exits 1 if it is not ready."""
    findings = examine()
    missing = {name: missing_for(name, findings) for name in NEEDS}
    ready = not missing[purpose]
    write_result({"ready": ready, "findings": [asdict(entry) for entry in findings]}, json_path)
    if json_path != STDOUT:
        for entry in findings:
            click.echo(f"{'yes' if entry.ok else ' no'}  {entry.subject}: {entry.found}")
            if entry.fix and not entry.ok:
                click.echo(f"       {entry.fix}")
        for name, entries in missing.items():
            needs = ", ".join(entry.subject for entry in entries)
            click.echo(f"{name}: {f'needs {needs}' if needs else 'ready'}")
    return 0 if ready else 1

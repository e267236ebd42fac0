"""``streamseg doctor``: what is here, what is missing, and the command that mends it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from streamseg.doctor import NEEDS, examine, missing_for


@click.command()
@click.option(
    "--for",
    "purpose",
    type=click.Choice(list(NEEDS)),
    default="cpu",
    show_default=True,
    help="Ready to run on the CPU, by OpenVINO, by ONNX Runtime on a GPU, or by TensorRT.",
)
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
def command(purpose: str, as_json: bool) -> None:
    """Tell what this machine has for running bundles; exit 1 when it is not ready."""
    findings = examine()
    lacking = {name: missing_for(name, findings) for name in NEEDS}
    ready = not lacking[purpose]
    if as_json:
        click.echo(
            json.dumps({"ready": ready, "findings": [asdict(f) for f in findings]}, indent=2)
        )
        sys.exit(0 if ready else 1)
    for entry in findings:
        click.echo(f"{'yes' if entry.ok else ' no'}  {entry.subject}: {entry.found}")
        if entry.fix and not entry.ok:
            click.echo(f"       {entry.fix}")
    for name, entries in lacking.items():
        told = f"needs {', '.join(e.subject for e in entries)}" if entries else "ready"
        click.echo(f"{name}: {told}")
    sys.exit(0 if ready else 1)

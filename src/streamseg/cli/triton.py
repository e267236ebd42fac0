"""``streamseg triton``: a bundle as an NVIDIA Triton model repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.counting import count_of
from streamseg.destinations import FOLDER
from streamseg.export.triton import TritonOptions

BACKEND = ("engine", "native", "library", "gpu", "threads")


@subcommand(
    "triton",
    examples=(
        "triton street/ --sequences 16 -o models/",
        "triton street/ --sequences 16 --engine street.engine --server-path /models -o models/",
    ),
    removed={"--output": "write --out", "--streams": "write --sequences"},
)
@click.argument("bundle", type=PLACE)
@grouped(
    "-o", "--out", type=OutputType(FOLDER), required=True, help="Folder of the model repository."
)
@dataclass_options(TritonOptions, "server", "Server", without=BACKEND)
@dataclass_options(TritonOptions, "options", "Backend", only=BACKEND)
def command(bundle: Path, out: Path, server: TritonOptions, options: TritonOptions) -> None:
    """Write a Triton model repository for BUNDLE: one sequence per camera."""
    from streamseg.export.triton import write_repository
    from streamseg.runtime.bundle.bundle import read_bundle
    from streamseg.runtime.bundle.state import state_bytes

    opened = read_bundle(bundle)
    library = options.library
    chosen = replace(
        options,
        sequences=server.sequences,
        name=server.name,
        server_path=server.server_path,
        idle_seconds=server.idle_seconds,
        instances=server.instances,
        batch_wait_ms=server.batch_wait_ms,
        library=None if library is None else library.absolute(),
    )
    model = write_repository(opened, out, chosen)
    kernels = f"with {model.library}" if model.library else "without native operators"
    click.echo(f"{model.path}: {'TensorRT' if options.engine else 'ONNX Runtime'}, {kernels}")
    batch = opened.manifest.frame.batch
    if batch > 1:
        click.echo(f"up to {count_of(batch, 'stream')} a step, those that are ready")
    size = state_bytes(opened.manifest.state) // batch
    if size and server.sequences is not None:
        held = f"{size / 1e6:.2f} MB of state per stream, held twice"
        click.echo(f"{held}; {count_of(server.sequences, 'stream')} at once")
    for note in model.notes:
        click.echo(f"note: {note}")
    click.echo(f"start: {model.command}")

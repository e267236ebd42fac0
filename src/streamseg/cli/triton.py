"""``streamseg triton``: a bundle as an NVIDIA Triton model repository."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, required=True, help="The model repository.")
@click.option("--streams", type=click.IntRange(min=1), help="Streams that keep state at once.")
@click.option("--name", help="Model name; default: the bundle's folder.")
@click.option("--engine", type=FOLDER, help="TensorRT engine from `streamseg build`.")
@click.option("--native/--no-native", default=None, help="Demand or leave out our operators.")
@click.option("--library", type=FOLDER, help="Another operator or plugin library.")
@click.option("--server-path", help="Where the server sees the repository, such as /models.")
@click.option(
    "--idle",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0.001),
    help="Seconds that a silent stream keeps its state.",
)
@click.option(
    "--instances",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Copies of the model that run at once.",
)
@click.option("--gpu", is_flag=True, help="Run ONNX Runtime on the GPU.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one step.")
def command(
    bundle: Path,
    output: Path,
    streams: int | None,
    name: str | None,
    engine: Path | None,
    native: bool | None,
    library: Path | None,
    server_path: str | None,
    idle: float,
    instances: int,
    gpu: bool,
    threads: int | None,
) -> None:
    """Write a Triton model repository that streams BUNDLE: one sequence a camera."""
    from streamseg.export.triton import TritonOptions, write_repository
    from streamseg.runtime.bundle.bundle import read_bundle
    from streamseg.runtime.bundle.state import state_bytes

    opened = read_bundle(bundle)
    options = TritonOptions(
        streams=streams,
        name=name,
        engine=engine,
        native=native,
        library=None if library is None else library.absolute(),
        server_path=server_path,
        idle_seconds=idle,
        instances=instances,
        gpu=gpu,
        threads=threads,
    )
    model = write_repository(opened, output, options)
    kernels = f"with {model.library}" if model.library else "without our operators"
    click.echo(f"{model.path}: {'TensorRT' if engine else 'ONNX Runtime'}, {kernels}")
    size = state_bytes(opened.manifest.state)
    if size:
        click.echo(f"{size / 1e6:.2f} MB of state a stream, held twice; {streams} streams at once")
    for note in model.notes:
        click.echo(f"note: {note}")
    click.echo(f"start: {model.command}")

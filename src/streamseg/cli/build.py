"""``streamseg build``: a bundle's graphs into TensorRT engines for this machine."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from streamseg.errors import ExportError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", type=click.Path(path_type=Path), help="Folder for the engines.")
@click.option("--flavour", type=click.Choice(["tensorrt", "tensorrt_rtx"]), help="Which TensorRT.")
@click.option("--native/--no-native", default=None, help="Use the plugin library, or never.")
@click.option("--library", type=click.Path(path_type=Path), help="Another plugin library.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="fp16 converts a float32 bundle's graphs; otherwise the bundle's own.",
)
@click.option("--workspace", type=click.IntRange(1), help="Scratch memory limit, MiB.")
@click.option("--capability", multiple=True, help="TensorRT-RTX: compute capability; repeatable.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="Timing cache file.")
def command(
    bundle: Path,
    engine: Path | None,
    flavour: str | None,
    native: bool | None,
    library: Path | None,
    precision: str | None,
    workspace: int | None,
    capability: tuple[str, ...],
    timing_cache: Path | None,
) -> None:
    """Build BUNDLE's graphs into TensorRT engines for this machine's GPU."""
    from streamseg.runtime.bundle.bundle import read_bundle

    opened = read_bundle(bundle)
    try:
        from streamseg.export.engine_build import EngineOptions, build_engines
    except ImportError as error:
        raise ExportError(f"build needs onnx ({error}). Run: pip install onnx") from None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, step: int, steps: int) -> bool:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=steps)
            bar.update(tasks[phase], completed=step)
            return True

        options = EngineOptions(
            flavour=flavour,
            native=native,
            library=None if library is None else library.absolute(),
            workspace=None if workspace is None else workspace << 20,
            capabilities=capability,
            timing_cache=timing_cache,
            precision=precision,
            progress=show,
        )
        built = build_engines(opened, out=engine, options=options)
    for entry in built:
        record = entry.record
        kernels = "plugins" if record.plugins_sha256 else "lowering"
        click.echo(
            f"{entry.path}: {record.flavour} {record.version}, {record.precision}, {kernels}, "
            f"compute {', '.join(record.capabilities)}, {entry.path.stat().st_size / 1e6:.1f} MB"
        )
    if built[0].record.precision != opened.manifest.precision_name:
        click.echo(
            f"  converted from {opened.manifest.precision_name}; to measure what that costs: "
            f"streamseg compare {bundle}@onnxruntime {bundle}@tensorrt --source VIDEO"
        )

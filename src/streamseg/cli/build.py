"""``streamseg build``: a bundle's graphs, compiled for this machine by TensorRT or OpenVINO."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from streamseg.doctor import board_state
from streamseg.errors import ExportError
from streamseg.redaction import redact
from streamseg.runtime.backends.interface import BackendOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamseg.runtime.bundle.bundle import Bundle


# Frames read from --check-source.
_FRAMES = 24


def _read_clip(address: str) -> list[NDArray[np.uint8]]:
    """The first frames of a source."""
    from streamseg.runtime.sources.opening import open_source

    with open_source(address) as source:
        clip = [frame.image for frame in itertools.islice(source, _FRAMES)]
    if not clip:
        raise ExportError(f"{redact(address)} has no frames to compare engines on")
    return clip


def _refuse_given(context: click.Context, *names: str) -> None:
    """Raise UsageError where an option that this backend ignores was given."""
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{option} does not apply to --backend {context.params['backend']}"
            )


def _build_openvino(bundle: Bundle, options: BackendOptions) -> None:
    from streamseg.runtime.backends.openvino import build_openvino

    for path in build_openvino(bundle, options):
        click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    click.echo("  used by --backend openvino with the same --device, --precision and --threads")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    type=click.Choice(["tensorrt", "openvino"]),
    default="tensorrt",
    show_default=True,
    help="What compiles; OpenVINO takes --device, --threads, --precision, --native, --library.",
)
@click.option("--device", help="OpenVINO's name of a device; the CPU by default.")
@click.option("--threads", type=click.IntRange(min=1), help="OpenVINO: CPU threads of one step.")
@click.option("--engine", type=click.Path(path_type=Path), help="Folder for the engines.")
@click.option("--flavour", type=click.Choice(["tensorrt", "tensorrt_rtx"]), help="Which TensorRT.")
@click.option("--native/--no-native", default=None, help="Use the plugin library, or never.")
@click.option("--library", type=click.Path(path_type=Path), help="Another plugin library.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "auto", "f32", "bf16", "f16"]),
    help="fp16 converts a float32 bundle's graphs; otherwise the bundle's own. OpenVINO: auto, "
    "f32, bf16, f16.",
)
@click.option("--workspace", type=click.IntRange(1), help="Scratch memory limit, MiB.")
@click.option("--capability", multiple=True, help="TensorRT-RTX: compute capability; repeatable.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="Timing cache file.")
@click.option("--tf32", is_flag=True, help="Let float32 products round their inputs to TF32.")
@click.option("--check-source", help="Frames to compare on with ONNX Runtime; else drawn ones.")
@click.option("--unverified", is_flag=True, help="Keep engines that fail the comparison.")
def command(
    bundle: Path,
    backend: str,
    device: str | None,
    threads: int | None,
    engine: Path | None,
    flavour: str | None,
    native: bool | None,
    library: Path | None,
    precision: str | None,
    workspace: int | None,
    capability: tuple[str, ...],
    timing_cache: Path | None,
    tf32: bool,
    check_source: str | None,
    unverified: bool,
) -> None:
    """Compile BUNDLE's graphs for this machine: TensorRT engines, or OpenVINO's kept graphs."""
    from streamseg.runtime.bundle.bundle import read_bundle

    opened = read_bundle(bundle)
    absolute = None if library is None else library.absolute()
    if backend == "openvino":
        context = click.get_current_context()
        _refuse_given(context, "engine", "flavour", "workspace", "capability", "timing_cache")
        _refuse_given(context, "tf32", "check_source", "unverified")
        options = BackendOptions(native, absolute, threads, device=device, precision=precision)
        _build_openvino(opened, options)
        return
    _refuse_given(click.get_current_context(), "device", "threads")
    if precision in ("auto", "f32", "bf16", "f16"):
        raise click.BadParameter(f"'{precision}' is OpenVINO's; use fp32, fp16 or int8")
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

        engine_options = EngineOptions(
            flavour=flavour,
            native=native,
            library=absolute,
            workspace=None if workspace is None else workspace << 20,
            capabilities=capability,
            timing_cache=timing_cache,
            precision=precision,
            progress=show,
            tf32=tf32,
            unverified=unverified,
            clip=None if check_source is None else _read_clip(check_source),
            clip_name="" if check_source is None else redact(check_source),
            board=board_state(),
        )
        built = build_engines(opened, out=engine, options=engine_options)
    for entry in built:
        record = entry.record
        kernels = "plugins" if record.plugins_sha256 else "lowering"
        precision_shown = record.precision + (" with TF32" if record.tf32 else "")
        click.echo(
            f"{entry.path}: {record.flavour} {record.version}, {precision_shown}, {kernels}, "
            f"compute {', '.join(record.capabilities)}, {entry.path.stat().st_size / 1e6:.1f} MB"
        )
    found = built[0].record.verification
    click.echo(
        f"  check: {'never compared with ONNX Runtime' if found is None else found.describe()}"
    )
    if built[0].record.precision != opened.manifest.precision_name:
        click.echo(
            f"  converted from {opened.manifest.precision_name}; to measure what that costs: "
            f"streamseg compare {bundle}@onnxruntime {bundle}@tensorrt --source VIDEO"
        )

"""``streamseg build``: a bundle's graphs, compiled for this machine by TensorRT or OpenVINO."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from streamseg.cli.dataclass_options import dataclass_options, grouped, refuse_given
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.destinations import FOLDER
from streamseg.doctor import board_state
from streamseg.errors import ExportError
from streamseg.export.engine_options import ENGINE_PRECISIONS, EngineOptions
from streamseg.installation import package_command
from streamseg.option_fields import option, precision_option
from streamseg.redaction import redact
from streamseg.runtime.backends.interface import OPENVINO_PRECISIONS, BackendOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamseg.runtime.bundle.bundle import Bundle


# Frames read from --check-source.
_FRAMES = 24
_PRECISIONS = {"tensorrt": ENGINE_PRECISIONS, "openvino": OPENVINO_PRECISIONS}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What is built.

    Attributes:
        check_source: frames to compare engines on; None draws a street.
        backend: whose files are written.
        precision: None keeps the bundle's.
    """

    check_source: str | None = option(
        "Frames on which engines are compared with ONNX Runtime.",
        default=None,
        metavar="SOURCE",
        unset="a drawn street",
        common=True,
    )
    backend: str = option(
        "Backend that runs the graphs.",
        default="tensorrt",
        choices=tuple(_PRECISIONS),
        common=True,
    )
    precision: str | None = precision_option(
        default=None,
        unset="the bundle's",
        choices=tuple(dict.fromkeys(itertools.chain(*_PRECISIONS.values()))),
        common=True,
    )

    def require_precision(self) -> None:
        """Raise BadParameter where the backend does not have the precision."""
        known = _PRECISIONS[self.backend]
        if self.precision is not None and self.precision not in known:
            raise click.BadParameter(
                f"--backend {self.backend} does not build '{self.precision}'; use one of "
                + ", ".join(known)
            )


def _read_clip(address: str) -> list[NDArray[np.uint8]]:
    """The first frames of a source."""
    from streamseg.runtime.sources.opening import open_source

    with open_source(address) as source:
        clip = [frame.image for frame in itertools.islice(source, _FRAMES)]
    if not clip:
        raise ExportError(f"{redact(address)} has no frames to compare engines on")
    return clip


def _build_openvino(bundle: Bundle, options: BackendOptions) -> None:
    from streamseg.runtime.backends.openvino import build_openvino

    for path in build_openvino(bundle, options):
        click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    click.echo("  used by --backend openvino with the same --device, --precision and --threads")


@subcommand(
    "build",
    examples=(
        "build street/ --precision fp16",
        "build street/ --backend openvino --precision bf16",
    ),
    removed={"--engine": "write --out for the folder of the engines"},
)
@click.argument("bundle", type=PLACE)
@grouped(
    "-o", "--out", type=OutputType(FOLDER), help="Folder for the engines.", show_default="the cache"
)
@dataclass_options(BuildOptions, "target", "Target")
@dataclass_options(EngineOptions, "options", "TensorRT", without=("native", "library", "precision"))
@dataclass_options(
    BackendOptions, "operators", "Backend", only=("native", "library", "device", "threads")
)
def command(
    bundle: Path,
    out: Path | None,
    target: BuildOptions,
    options: EngineOptions,
    operators: BackendOptions,
) -> None:
    """Compile BUNDLE for this machine: TensorRT engines, or graphs of OpenVINO.

    TensorRT takes fp32, fp16 (converts a float32 bundle's graphs) and int8; OpenVINO takes fp32,
    bf16, fp16 and auto.
    """
    from streamseg.runtime.bundle.bundle import read_bundle

    opened = read_bundle(bundle)
    library = None if operators.library is None else operators.library.absolute()
    context, taker = click.get_current_context(), f"--backend {target.backend}"
    target.require_precision()
    if target.backend == "openvino":
        refuse_given(context, taker, "out", "flavour", "workspace", "capabilities", "timing_cache")
        refuse_given(context, taker, "tf32", "check_source", "unverified")
        _build_openvino(opened, replace(operators, library=library, precision=target.precision))
        return
    refuse_given(context, taker, "device", "threads")
    try:
        from streamseg.export.engine_build import build_engines
    except ImportError as error:
        raise ExportError(f"build needs onnx ({error}). Run: {package_command('onnx')}") from None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, step: int, steps: int) -> bool:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=steps)
            bar.update(tasks[phase], completed=step)
            return True

        source = target.check_source
        chosen = replace(
            options,
            native=operators.native,
            library=library,
            precision=target.precision,
            progress=show,
            clip=None if source is None else _read_clip(source),
            clip_name="" if source is None else redact(source),
            board=board_state(),
        )
        built = build_engines(opened, out=out, options=chosen)
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
            f"streamseg compare {bundle}@onnxruntime {bundle}@tensorrt VIDEO"
        )

"""``streamseg export``: checkpoint in, bundle out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.options import SIZE
from streamseg.cli.setting_options import setting_options
from streamseg.errors import ExportError
from streamseg.runtime.bundle.bundle import MANIFEST
from streamseg.runtime.bundle.claims import PARITY_MEANING, describe_assumed, describe_parity
from streamseg.runtime.bundle.state import state_bytes

if TYPE_CHECKING:
    from streamseg.export.step import WeightsOrigin

TORCH_HINT = "export needs PyTorch and transformers ({}). Run: pip install 'streamseg[export,cpu]'"


def describe_rest(origin: WeightsOrigin) -> Iterator[str]:
    """Lines on the keys of a checkpoint that are not in the model."""
    if origin.ignored:
        yield (
            f"left out {len(origin.ignored)} keys that serve training only "
            "(streamseg -v export names them)"
        )
    if origin.outside:
        from streamseg.export.formats.layouts import summarise

        yield (
            f"outside the network: {len(origin.outside)} keys of unknown purpose, "
            f"{summarise(origin.outside)}; check that the network was used without them"
        )


def give_memory(bundle: Path, out: Path, memory: str, *, logits: bool) -> None:
    """Write ``out``: the bundle with a smoothed memory."""
    try:
        from streamseg.export.bundle_smoothing import remember_bundle
        from streamseg.export.smoothing import PRESETS
    except ImportError as error:
        raise ExportError(TORCH_HINT.format(error)) from None
    manifest = remember_bundle(bundle, out, PRESETS[memory], logits=logits)
    state = state_bytes(manifest.state)
    click.echo(f"{out}: {bundle} with memory '{memory}', state {state:,} bytes")
    click.echo(f"  parity {describe_parity(manifest.parity)}")


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT|MODULE:FUNCTION|BUNDLE")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Bundle folder.")
@click.option("--size", type=SIZE, help="HxW that the model runs at; without, some are proposed.")
@setting_options
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8-dynamic"]),
    default="fp32",
    show_default=True,
    help="fp16: half the size, for GPUs; state, norms, softmax stay float32. bf16, int8-dynamic: "
    "products of the temporal layers of TV3S in that precision, for CPUs.",
)
@click.option(
    "--memory",
    type=click.Choice(["gated", "warped"]),
    help="Smooth a per-frame network's scores over time; see docs/memory.md.",
)
@click.option("--logits", is_flag=True, help="Also output float32 logits.")
@click.option("--letterbox", is_flag=True, help="Have the runtime keep the aspect of frames.")
def command(
    checkpoint: str,
    out: Path,
    size: tuple[int, int] | None,
    settings: dict[str, str],
    precision: str,
    memory: str | None,
    logits: bool,
    letterbox: bool,
) -> None:
    """Turn a checkpoint, or a network that a Python function builds, into a bundle.

    CHECKPOINT is a file, a folder as transformers writes it, or hf:ORG/NAME. docs/checkpoints.md
    lists the layouts. MODULE:FUNCTION, such as my_package.model:build, is called with --set
    NAME=VALUE as its arguments and returns a streamseg.export.StepModel; see
    docs/your-own-network.md. BUNDLE, of one graph, is given a --memory.
    """
    if (Path(checkpoint) / MANIFEST).is_file():
        plain = size is None and not settings and precision == "fp32" and not letterbox
        if memory is None or not plain:
            raise click.UsageError("of a bundle, export takes --memory and --logits, and needs one")
        give_memory(Path(checkpoint), out, memory, logits=logits)
        return
    try:
        from streamseg.export import export_bundle, load_model
        from streamseg.export.size_advice import advise, propose
    except ImportError as error:
        raise ExportError(TORCH_HINT.format(error)) from None
    model = load_model(checkpoint, settings=settings)
    description = model.describe()
    layout = f"layout {model.origin.layout}, " if model.origin.layout else ""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    click.echo(
        f"{checkpoint}: {description['family']} {description['encoder']}, {layout}"
        f"{model.num_classes} classes, {parameters:,} parameters"
    )
    if model.origin.source != Path(checkpoint).name:
        click.echo(f"  from {model.origin.source}, SHA-256 {model.origin.sha256}")
    for line in describe_assumed(model.assumed):
        click.echo(f"  {line}")
    for line in describe_rest(model.origin):
        click.echo(f"  {line}")
    for line in propose(model) if size is None else advise(model, size):
        click.echo(f"  {line}")
    if size is None:
        raise click.UsageError("--size HxW is missing; the sizes above waste no work")
    if memory is not None:
        from streamseg.export.smoothing import PRESETS, remember

        model = remember(model, PRESETS[memory])
    resize = "letterbox" if letterbox else "stretch"
    report = export_bundle(model, out, size=size, logits=logits, resize=resize, precision=precision)
    click.echo(
        f"{report.path}: {precision}, {report.nodes} nodes, {report.bytes / 1e6:.1f} MB, "
        f"state {report.state_bytes:,} bytes, {report.seconds:.1f} s"
    )
    click.echo(f"  parity {describe_parity(report.parity)}")
    click.echo(f"  {PARITY_MEANING}")
    click.echo(f"  next: streamseg run {report.path} --source VIDEO --out overlay.mp4")

"""``streamseg export``: checkpoint in, bundle out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import Phase, show_phases
from streamseg.cli.removals import SETTINGS
from streamseg.cli.setting_options import setting_options
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import OutputType
from streamseg.counting import count_of
from streamseg.destinations import FOLDER
from streamseg.errors import CheckpointError, ExportError
from streamseg.export.export_options import SMOOTHED, ExportOptions
from streamseg.installation import install_command
from streamseg.runtime.bundle.bundle import MANIFEST, check_target
from streamseg.runtime.bundle.claims import PARITY_MEANING, describe_assumed, describe_parity
from streamseg.runtime.bundle.state import state_bytes

if TYPE_CHECKING:
    from streamseg.export.step import WeightsOrigin


def describe_missing(error: ImportError) -> str:
    """The message where PyTorch or transformers cannot be imported."""
    return (
        f"export needs PyTorch and transformers ({error}). Run: {install_command('export', 'cpu')}"
    )


def describe_rest(origin: WeightsOrigin) -> Iterator[str]:
    """Lines on the keys of a checkpoint that are not in the model."""
    if origin.ignored:
        yield (
            f"ignored {count_of(len(origin.ignored), 'key')} that are used in training only "
            "(add -v to list them)"
        )
    if origin.outside:
        from streamseg.export.formats.layouts import summarise

        yield (
            f"outside the network: {count_of(len(origin.outside), 'key')} of unknown purpose, "
            f"{summarise(origin.outside)}; check that the network was used without them"
        )


def give_memory(bundle: Path, out: Path, memory: str, *, logits: bool) -> None:
    """Write ``out``: the bundle with a smoothed or a learned memory."""
    try:
        from streamseg.export.bundle_smoothing import remember_bundle
        from streamseg.export.smoothing import PRESETS
    except ImportError as error:
        raise ExportError(describe_missing(error)) from None
    with show_phases(f"adding the memory to {bundle}"):
        chosen = PRESETS.get(memory, Path(memory))
        manifest = remember_bundle(bundle, out, chosen, logits=logits)
    state = state_bytes(manifest.state)
    click.echo(f"{out}: {bundle} with memory '{memory}', state {state:,} bytes")
    click.echo(f"  parity {describe_parity(manifest.parity)}")


def serve_streams(bundle: Path, out: Path, count: int) -> None:
    """Write ``out``: the bundle for several streams a step."""
    try:
        from streamseg.export.batched_bundle import batch_bundle
    except ImportError as error:
        raise ExportError(describe_missing(error)) from None
    several = count_of(count, "stream")
    with show_phases(f"comparing {several} a step with single streams"):
        compared = batch_bundle(bundle, out, count).parity["batch"]
    click.echo(
        f"{out}: {several} a step; {compared['streams']} of them differ from the same "
        f"streams alone by {compared['state_relative']:.2g} of their state, "
        f"{compared['labels_agreement']:.4%} of labels equal"
    )


def require_checkpoint(subject: str) -> None:
    """Raise CheckpointError where a checkpoint is a path and nothing is there."""
    if not Path(subject).exists() and ":" not in subject:
        raise CheckpointError(
            f"no checkpoint at {subject}: expected a file, a folder, hf:ORG/NAME or MODULE:FUNCTION"
        )


@subcommand(
    "export",
    examples=(
        "export tv3s.pth --size 480x864 -o street/",
        "export hf:nvidia/segformer-b1-finetuned-cityscapes-1024-1024 --size 512x1024 -o city/",
    ),
    removed=SETTINGS,
)
@click.argument("checkpoint", metavar="CHECKPOINT|MODULE:FUNCTION|BUNDLE")
@grouped("-o", "--out", required=True, type=OutputType(FOLDER), help="Bundle folder to write.")
@dataclass_options(ExportOptions, "options", "Bundle")
@setting_options("Network")
def command(checkpoint: str, out: Path, options: ExportOptions, settings: dict[str, str]) -> None:
    """Export a checkpoint, or a network that a Python function builds, to a bundle.

    CHECKPOINT is a file, a folder as transformers writes it, or hf:ORG/NAME; docs/checkpoints.md
    lists the layouts. MODULE:FUNCTION, such as my_package.model:build, is called with --set
    NAME=VALUE as its arguments and returns a streamseg.export.StepModel; see
    docs/your-own-network.md. BUNDLE, of one graph, is given a --memory, or serves a --batch of
    streams.

    Precision fp16 is for GPUs; state, norms and softmax stay float32. bf16 and int8-dynamic are for
    CPUs: products of attention, and of TV3S's temporal layers.
    """
    if (Path(checkpoint) / MANIFEST).is_file():
        export_again(Path(checkpoint), out, options, settings)
        return
    if options.memory not in (None, *SMOOTHED):
        raise click.UsageError("a learned memory joins the BUNDLE that it was trained for")
    require_checkpoint(checkpoint)
    check_target(out)
    if options.batch == 1:
        export_one(checkpoint, out, options, settings)
        return
    with tempfile.TemporaryDirectory(prefix="streamseg-") as scratch:
        single = Path(scratch) / out.name
        export_one(checkpoint, single, options, settings)
        serve_streams(single, out, options.batch)


def export_one(
    checkpoint: str, out: Path, options: ExportOptions, settings: dict[str, str]
) -> None:
    """Write a bundle of one stream a step."""
    with show_phases("loading PyTorch") as phase:
        export(checkpoint, out, options, settings=settings, phase=phase)


def export_again(bundle: Path, out: Path, options: ExportOptions, settings: dict[str, str]) -> None:
    """Write a bundle with a memory, or for several streams a step."""
    memory, logits, batch = options.memory, options.logits, options.batch
    check_target(out)
    if batch > 1 and not settings and options == ExportOptions(batch=batch):
        serve_streams(bundle, out, batch)
        return
    if memory is None or settings or options != ExportOptions(memory=memory, logits=logits):
        raise click.UsageError(
            "a BUNDLE is exported with --batch, or with --memory; only --logits may be added to it"
        )
    give_memory(bundle, out, memory, logits=logits)


def export(
    checkpoint: str,
    out: Path,
    options: ExportOptions,
    *,
    settings: dict[str, str],
    phase: Phase,
) -> None:
    """Export, and print what was read and written."""
    try:
        from streamseg.export import export_bundle, load_model
        from streamseg.export.size_advice import advise, propose
    except ImportError as error:
        raise ExportError(describe_missing(error)) from None
    size, memory = options.size, options.memory
    phase(f"reading {checkpoint}")
    model = load_model(checkpoint, settings=settings)
    description = model.describe()
    layout = f"layout {model.origin.layout}, " if model.origin.layout else ""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    click.echo(
        f"{checkpoint}: {description['family']} {description['encoder']}, {layout}"
        f"{count_of(model.num_classes, 'class')}, {parameters:,} parameters"
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
        raise click.UsageError("missing --size HxW; see the lines above")
    if memory is not None:
        from streamseg.export.smoothing import PRESETS, remember

        if model.state_spec(size):
            click.echo(
                f"  memory '{memory}' replaces the network's own state: each frame is its first"
            )
        model = remember(model, PRESETS[memory])
    report = export_bundle(
        model,
        out,
        size=size,
        logits=options.logits,
        resize=options.resize,
        precision=options.precision,
        phase=phase,
    )
    single = options.batch == 1
    click.echo(
        f"{report.path if single else 'one stream a step'}: {options.precision}, "
        f"{count_of(report.nodes, 'node')}, {report.bytes / 1e6:.1f} MB, "
        f"state {report.state_bytes:,} bytes, {report.seconds:.1f} s"
    )
    click.echo(f"  parity {describe_parity(report.parity)}")
    click.echo(f"  {PARITY_MEANING}")
    if single:
        click.echo(f"  next: streamseg run {report.path} VIDEO -o overlay.mp4")

"""``streamseg models``: what can be imported, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from streamseg.cli.export import TORCH_HINT
from streamseg.cli.options import SIZE
from streamseg.cli.setting_options import setting_options
from streamseg.errors import ExportError
from streamseg.runtime.bundle.claims import describe_assumed, format_setting

LINE = "{:<22}{:>11}{:>13}  {:<29}{:<20}{}"


def describe_checkpoint(path: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """Lines on the network of a checkpoint: what it is, and what had to be assumed."""
    from streamseg.export import load_checkpoint

    model = load_checkpoint(path, settings=settings)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    yield f"{path}: {parameters:,} parameters"
    for name, value in model.configuration().items():
        yield f"  {name}: {format_setting(value)}"
    yield f"  class names: {', '.join(entry.name for entry in model.classes)}"
    yield f"  license: {model.origin.license}; training size: {model.origin.training_size}"
    for line in describe_assumed(model.assumed):
        yield f"  {line}"


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@setting_options
@click.option("--size", default="480x864", show_default=True, type=SIZE, help="HxW.")
@click.option("--classes", default=124, show_default=True, type=click.IntRange(1, 255))
@click.option("--only", default="", help="Names that contain this, e.g. cffm or mit_b1.")
def command(
    checkpoint: Path | None,
    settings: dict[str, str],
    size: tuple[int, int],
    classes: int,
    only: str,
) -> None:
    """List the systems that `streamseg export` can import, with parameters, work and state.

    With CHECKPOINT, say which network it is and what its file does not say. Work is in 10^9
    multiply-adds a frame, for each graph that a step may run. Accuracy is the published one, where
    a source could be read.
    """
    try:
        from streamseg.export.catalogue import known_rows, measure_cost
    except ImportError as error:
        raise ExportError(TORCH_HINT.format(error)) from None
    if checkpoint is not None:
        for line in describe_checkpoint(checkpoint, settings):
            click.echo(line)
        return
    if settings:
        raise click.UsageError("--set needs a CHECKPOINT")
    chosen = [entry for name, entry in known_rows().items() if only in name]
    if not chosen:
        raise ExportError(f"nothing in the catalogue contains '{only}'; try --only mit_b0")
    click.echo(f"{classes} classes at {size[0]}x{size[1]}; work in 10^9 multiply-adds a frame")
    click.echo(LINE.format("name", "parameters", "state bytes", "work", "paper", "its accuracy"))
    for entry in chosen:
        try:
            cost = measure_cost(entry.name, size, classes=classes)
        except ExportError as error:
            click.echo(LINE.format(entry.name, "", "", "", entry.paper, str(error)))
            continue
        work = ", ".join(
            f"{value:.1f}" if len(cost.gmacs) == 1 else f"{graph} {value:.1f}"
            for graph, value in cost.gmacs.items()
        )
        parameters = f"{cost.parameters / 1e6:.3f} M"
        state = f"{cost.state_bytes:,}"
        click.echo(LINE.format(entry.name, parameters, state, work, entry.paper, entry.accuracy))

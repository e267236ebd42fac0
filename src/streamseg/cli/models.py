"""``streamseg models``: what can be imported, and what it costs."""

from __future__ import annotations

import click

from streamseg.cli.export import TORCH_HINT
from streamseg.cli.options import SIZE
from streamseg.errors import ExportError

LINE = "{:<22}{:>11}{:>13}  {:<29}{:<20}{}"


@click.command()
@click.option("--size", default="480x864", show_default=True, type=SIZE, help="HxW.")
@click.option("--classes", default=124, show_default=True, type=click.IntRange(1, 255))
@click.option("--only", default="", help="Names that contain this, e.g. cffm or mit_b1.")
def command(size: tuple[int, int], classes: int, only: str) -> None:
    """List the systems that `streamseg export` can import, with parameters, work and state.

    Work is in 10^9 multiply-adds a frame, for each graph that a step may run. Accuracy is the
    published one, where a source could be read.
    """
    try:
        from streamseg.export.catalogue import CATALOGUE, measure_cost
    except ImportError as error:
        raise ExportError(TORCH_HINT.format(error)) from None
    chosen = [entry for name, entry in CATALOGUE.items() if only in name]
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

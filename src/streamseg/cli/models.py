"""``streamseg models``: what can be imported, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from streamseg.cli.export import TORCH_HINT
from streamseg.cli.options import OUTPUT_FILE, SIZE
from streamseg.cli.setting_options import setting_options
from streamseg.errors import ExportError
from streamseg.runtime.bundle.claims import describe_assumed, format_setting

SORTS = ("family", "name", "parameters", "work", "state", "miou")


def describe_checkpoint(
    path: Path, settings: Mapping[str, str], size: tuple[int, int]
) -> Iterator[str]:
    """Lines on the network of a checkpoint: what it is, what was assumed, and what a size costs."""
    from streamseg.export import load_checkpoint
    from streamseg.export.size_advice import advise, cost_of

    model = load_checkpoint(path, settings=settings)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    yield f"{path}: {parameters:,} parameters"
    for name, value in model.configuration().items():
        yield f"  {name}: {format_setting(value)}"
    yield f"  class names: {', '.join(entry.name for entry in model.classes)}"
    yield f"  license: {model.origin.license}; training size: {model.origin.training_size}"
    for line in describe_assumed(model.assumed):
        yield f"  {line}"
    for line in advise(model, size) or [cost_of(model, size).describe()]:
        yield f"  {line}"


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@setting_options
@click.option("--size", default="480x864", show_default=True, type=SIZE, help="HxW.")
@click.option("--classes", default=124, show_default=True, type=click.IntRange(1, 255))
@click.option("--only", default="", help="Names that contain this, e.g. cffm or mit_b1.")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="family",
    show_default=True,
    help="miou: the highest published on VSPW.",
)
@click.option("--published", is_flag=True, help="All published figures, with paper, table, row.")
@click.option("--json", "json_path", type=OUTPUT_FILE, help="Write all of it here.")
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Time this bundle here, and estimate the other networks from it.",
)
@click.option(
    "--board", help="Lower bounds for a board without measurement, e.g. jetson-orin-nano-8gb."
)
def command(
    checkpoint: Path | None,
    settings: dict[str, str],
    size: tuple[int, int],
    classes: int,
    only: str,
    sort: str,
    published: bool,
    json_path: Path | None,
    measured: Path | None,
    board: str | None,
) -> None:
    """List the systems that `streamseg export` can import, with parameters, work and state.

    With CHECKPOINT, say which network it is and what its file does not say. Work is in 10^9
    multiply-adds a frame, for each graph that a step may run.
    """
    if checkpoint is not None:
        for line in describe_checkpoint(checkpoint, settings, size):
            click.echo(line)
        return
    if settings:
        raise click.UsageError("--set needs a CHECKPOINT")
    try:
        from streamseg.cli.catalogue_tables import print_catalogue
    except ImportError as error:
        raise ExportError(TORCH_HINT.format(error)) from None
    print_catalogue(
        only,
        size,
        classes,
        sort=sort,
        published=published,
        measured=measured,
        board=board,
        json_path=json_path,
    )

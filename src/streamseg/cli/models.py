"""``streamseg models``: what can be imported, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import click
from click.core import ParameterSource

from streamseg.cli.catalogue_options import CatalogueOptions
from streamseg.cli.dataclass_options import dataclass_options, refuse_given
from streamseg.cli.export import describe_missing, require_checkpoint
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import SETTINGS
from streamseg.cli.results import json_option
from streamseg.cli.setting_options import setting_options
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.errors import ExportError
from streamseg.runtime.bundle.claims import describe_assumed, format_setting


def describe_checkpoint(
    path: Path, settings: Mapping[str, str], size: tuple[int, int] | None
) -> Iterator[str]:
    """Lines on the network of a checkpoint: what it is, what is assumed, and what sizes cost."""
    from streamseg.export import load_checkpoint
    from streamseg.export.size_advice import advise, cost_of, propose

    model = load_checkpoint(path, settings=settings)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    yield f"{path}: {parameters:,} parameters"
    for name, value in model.configuration().items():
        yield f"  {name}: {format_setting(value)}"
    yield f"  class names: {', '.join(entry.name for entry in model.classes)}"
    yield f"  license: {model.origin.license}; training size: {model.origin.training_size}"
    for line in describe_assumed(model.assumed):
        yield f"  {line}"
    if size is None:
        costs = propose(model)
    else:
        costs = advise(model, size) or [cost_of(model, size).describe()]
    for line in costs:
        yield f"  {line}"


@subcommand(
    "models",
    examples=("models --only cffm", "models street.safetensors"),
    removed={**SETTINGS, "--classes": "write --class-count"},
)
@click.argument("checkpoint", required=False, type=PLACE)
@dataclass_options(CatalogueOptions, "options", "Figures")
@json_option
@setting_options("Checkpoints")
def command(
    checkpoint: Path | None,
    options: CatalogueOptions,
    json_path: Path | None,
    settings: dict[str, str],
) -> None:
    """List the models that 'streamseg export' supports, with parameters, work and state.

    With CHECKPOINT, describe its network, and the settings that its file does not record. Work is
    in 10^9 multiply-adds per frame, for each graph that a step may run.
    """
    if checkpoint is not None:
        require_checkpoint(str(checkpoint))
        context = click.get_current_context()
        names = (field.name for field in fields(CatalogueOptions) if field.name != "size")
        refuse_given(context, "a CHECKPOINT", *names, "json_path")
    elif settings:
        raise click.UsageError("--set needs a CHECKPOINT")
    with show_phases("loading PyTorch") as phase:
        if checkpoint is not None:
            try:
                given = context.get_parameter_source("size") is ParameterSource.COMMANDLINE
                size = options.size if given else None
                lines = list(describe_checkpoint(checkpoint, settings, size))
            except ImportError as error:
                raise ExportError(describe_missing(error)) from None
            for line in lines:
                click.echo(line)
            return
        try:
            from streamseg.cli.catalogue_tables import print_catalogue
        except ImportError as error:
            raise ExportError(describe_missing(error)) from None
        phase("counting the work of each model")
        print_catalogue(options, json_path)

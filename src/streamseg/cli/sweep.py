"""``streamseg sweep``: accuracy and cost of a checkpoint against its settings."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.export import describe_missing, require_checkpoint
from streamseg.cli.results import json_option, open_console, write_result
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.errors import CheckpointError
from streamseg.evaluation.class_matching import MatchingOptions
from streamseg.evaluation.datasets import DatasetOptions
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.scores import EvaluationOptions
from streamseg.evaluation.segmenter import SegmenterOptions


@subcommand(
    "sweep",
    examples=(
        "sweep mrcfa.pth --size 480x864 --dataset vspw:VSPW_480p --variant keep_ratio=0.3",
        "sweep street.safetensors --size 256x512 --dataset synthetic:street "
        "--variant 'window=10 shift=5'",
    ),
)
@click.argument("checkpoint", type=PLACE)
@grouped(
    "--variant",
    "variants",
    multiple=True,
    required=True,
    metavar="'NAME=VALUE ...'",
    help="Settings of one row, such as offsets=-3,-2,-1; can be repeated.",
)
@dataclass_options(DatasetOptions, "clips", "Data")
@dataclass_options(MatchingOptions, "matching", "Data")
@dataclass_options(SegmenterOptions, "options", "Checkpoints", only=("size",))
@json_option
def command(
    checkpoint: Path,
    variants: tuple[str, ...],
    clips: DatasetOptions,
    matching: MatchingOptions,
    options: SegmenterOptions,
    json_path: Path | None,
) -> None:
    """Score CHECKPOINT as trained, and with other offsets, key interval, window or keep ratio.

    The weights stay as they are: publications train each variant, so their figures may differ.
    """
    require_checkpoint(str(checkpoint))
    try:
        from streamseg.evaluation.sweep import name_variant, parse_variant, sweep
    except ImportError as error:
        raise CheckpointError(describe_missing(error)) from None
    chosen = [{}, *(parse_variant(text) for text in variants)]
    with frame_progress(None) as advance:
        rows = sweep(
            checkpoint,
            clips.open(),
            chosen,
            options,
            scoring=EvaluationOptions(classes_by=matching.classes_by),
            watch=lambda name: lambda clip: advance(f"{name}: {clip}"),
        )
    first = rows[0].evaluation
    table = Table(title=f"{checkpoint} on {first.dataset} {first.split}", title_justify="left")
    table.add_column("settings", no_wrap=True)
    for head in ("mIoU, %", "mVC8, %", "mVC16, %", "10^9 multiply-adds", "state MB", "ms a frame"):
        table.add_column(head, justify="right")
    for row in rows:
        scores = row.evaluation.scores
        table.add_row(
            name_variant(row.variant),
            *(percent(value) for value in (scores.miou, scores.mvc[8], scores.mvc[16])),
            f"{row.cost.frame_gmacs:.2f}",
            f"{row.cost.state_bytes / 1e6:.2f}",
            f"{1000 / row.evaluation.fps:.1f}",
        )
    console = open_console(json_path)
    console.print(table)
    console.print("the same weights in every row; publications train each variant", highlight=False)
    write_result({"rows": [row.as_json() for row in rows]}, json_path)

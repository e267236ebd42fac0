"""``streamseg dataset``: check a dataset's tree, and write VSPW submissions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import SETTINGS
from streamseg.cli.results import json_option, open_console, write_result
from streamseg.cli.setting_options import setting_options
from streamseg.cli.subcommand import Subcommand
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.counting import count_of
from streamseg.destinations import FOLDER, PICTURE
from streamseg.errors import DatasetError
from streamseg.evaluation.class_matching import MatchingOptions
from streamseg.evaluation.dataset_check import (
    CheckOptions,
    DatasetCheck,
    check_dataset,
    draw_overlays,
)
from streamseg.evaluation.datasets import DatasetOptions
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.plots import write_image
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter, require_subjects
from streamseg.evaluation.submission import write_submission
from streamseg.redaction import printable


@click.group("dataset")
def command() -> None:
    """Check a dataset's tree, or write a submission for its test server."""


def print_check(check: DatasetCheck, console: Console) -> None:
    """Print counts and problems of the splits, and class frequencies."""
    table = Table("split", "clips", "frames", "labels", "frames a clip", "problem")
    for split in check.splits:
        lengths = f"{split.shortest} to {split.longest}" if split.clips else "-"
        counts = (str(value) for value in (split.clips, split.frames, split.labels))
        table.add_row(split.split, *counts, lengths, Text(printable(split.problem) or "none"))
    console.print(f"{check.root}: {check.name}", highlight=False)
    console.print(table)
    read = [split for split in check.splits if split.read]
    if not read:
        return
    shares = Table(
        "class",
        *(
            f"{split.split}, % of {split.read} of {count_of(split.labels, 'label')}"
            for split in read
        ),
    )
    for index, name in enumerate(check.class_names):
        shares.add_row(Text(printable(name)), *(percent(split.share(index)) for split in read))
    void = [split.pixels[-1] / max(1, sum(split.pixels)) for split in read]
    shares.add_row("void, % of all pixels", *(percent(value) for value in void))
    console.print(shares)


@command.command(
    "check",
    cls=Subcommand,
    examples=("dataset check CamVid/", "dataset check VSPW_480p/ --plot labels.png"),
)
@click.argument("root", type=PLACE)
@dataclass_options(CheckOptions, "options", "Data")
@grouped("--plot", type=OutputType(PICTURE), help="Write a PNG of frames with their labels.")
@json_option
def check(root: Path, options: CheckOptions, plot: Path | None, json_path: Path | None) -> None:
    """Check ROOT and report its splits, counts, class frequencies and missing files."""
    with show_phases(f"reading {root}"):
        found, usable = check_dataset(root, options)
    console = open_console(json_path)
    print_check(found, console)
    write_result(found.as_json(), json_path)
    if not found.usable:
        raise DatasetError(f"{root}: no split of {found.name} can be used with labels")
    if plot is not None:
        write_image(draw_overlays(usable), plot)
        console.print(f"wrote {plot}")


@command.command(
    "submit",
    cls=Subcommand,
    examples=(
        "dataset submit street/ --dataset vspw:VSPW_480p -o submission/",
        "dataset submit street.pth --size 480x864 --dataset vspw:VSPW_480p -o submission/",
    ),
    removed=SETTINGS,
)
@click.argument("subject", type=PLACE)
@dataclass_options(DatasetOptions, "clips", "Data", defaults={"split": "test"})
@grouped("-o", "--out", required=True, type=OutputType(FOLDER), help="New folder.")
@dataclass_options(MatchingOptions, "matching", "Data")
@dataclass_options(SegmenterOptions, "checkpoint", "Checkpoints", only=("size",))
@setting_options("Checkpoints")
@dataclass_options(
    SegmenterOptions, "options", "Backend", only=("backend", "native", "precision", "threads")
)
def submit(
    subject: Path,
    clips: DatasetOptions,
    out: Path,
    matching: MatchingOptions,
    checkpoint: SegmenterOptions,
    settings: dict[str, str],
    options: SegmenterOptions,
) -> None:
    """Write SUBJECT's predictions on VSPW as PNGs, VIDEO/FRAME.png with the values of its masks."""
    chosen = replace(options, size=checkpoint.size, settings=settings)
    require_subjects([str(subject)], chosen)
    opened = clips.open(labels=False)
    with (
        open_segmenter(subject, chosen) as segmenter,
        frame_progress(opened.frame_count) as advance,
    ):
        written = write_submission(
            segmenter, opened, out, classes_by=matching.classes_by, progress=advance
        )
    click.echo(
        f"wrote {count_of(written, 'frame')} of {count_of(len(opened.clips), 'video')} to {out}"
    )

"""``streamseg dataset``: look through a dataset's tree, and write VSPW submissions."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamseg.cli.options import OUTPUT_FILE, SIZE, classes_by_option
from streamseg.cli.setting_options import setting_options
from streamseg.errors import DatasetError
from streamseg.evaluation.class_matching import ClassesBy
from streamseg.evaluation.dataset_check import DatasetCheck, check_dataset, draw_overlays
from streamseg.evaluation.datasets import LABELLED, open_dataset
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.plots import write_image
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.scores import write_json
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.evaluation.submission import write_submission
from streamseg.redaction import printable

_FOLDER = click.Path(path_type=Path)


@click.group("dataset")
def command() -> None:
    """Look through a dataset's tree, or write a submission for its test server."""


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
        "class", *(f"{split.split}, % of {split.read} of {split.labels} labels" for split in read)
    )
    for index, name in enumerate(check.class_names):
        shares.add_row(Text(printable(name)), *(percent(split.share(index)) for split in read))
    void = [split.pixels[-1] / max(1, sum(split.pixels)) for split in read]
    shares.add_row("void, % of all pixels", *(percent(value) for value in void))
    console.print(shares)


@command.command("check")
@click.argument("root", type=_FOLDER)
@click.option(
    "--dataset", "name", type=click.Choice(list(LABELLED)), help="Default: by the layout."
)
@click.option(
    "--labels",
    "limit",
    default=200,
    show_default=True,
    type=click.IntRange(min=1),
    help="Label maps of a split that are read, spread over it.",
)
@click.option("--sheet", type=OUTPUT_FILE, help="Write a PNG of frames with their labels here.")
@click.option("--json", "json_path", type=OUTPUT_FILE, help="Write the results here.")
def check(
    root: Path, name: str | None, limit: int, sheet: Path | None, json_path: Path | None
) -> None:
    """Say what ROOT holds and what is missing: splits, counts, class frequencies."""
    found, usable = check_dataset(root, name, limit=limit)
    console = Console()
    print_check(found, console)
    if json_path is not None:
        write_json(found.as_json(), json_path)
    if not found.usable:
        raise DatasetError(f"{root}: no split of {found.name} can be used with labels")
    if sheet is not None:
        write_image(draw_overlays(usable), sheet)
        console.print(f"wrote {sheet}")


@command.command("submit")
@click.argument("subject", type=_FOLDER)
@click.option("--dataset", required=True, metavar="vspw:ROOT")
@click.option("--split", default="test", show_default=True)
@click.option("-o", "--out", required=True, type=_FOLDER, help="New folder.")
@click.option("--backend", default="auto", show_default=True, help="Of a bundle.")
@click.option("--size", type=SIZE, help="Frame size HxW of a checkpoint.")
@setting_options
@classes_by_option
def submit(
    subject: Path,
    dataset: str,
    split: str,
    out: Path,
    backend: str,
    size: tuple[int, int] | None,
    settings: dict[str, str],
    classes_by: ClassesBy,
) -> None:
    """Write SUBJECT's predictions on VSPW as PNGs, VIDEO/FRAME.png with the values of its masks."""
    opened = open_dataset(dataset, split, labels=False)
    options = SegmenterOptions(backend, size=size, settings=settings)
    with (
        open_segmenter(subject, options) as segmenter,
        frame_progress(opened.frame_count) as advance,
    ):
        written = write_submission(segmenter, opened, out, classes_by=classes_by, progress=advance)
    click.echo(f"wrote {written} frames of {len(opened.clips)} videos to {out}")

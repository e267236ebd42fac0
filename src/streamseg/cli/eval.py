"""``streamseg eval``: accuracy and consistency of a model on a labelled dataset."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamseg.cli.options import OUTPUT_FILE, SIZE, classes_by_option
from streamseg.cli.setting_options import setting_options
from streamseg.evaluation.class_matching import ClassesBy
from streamseg.evaluation.datasets import DATASETS, open_dataset
from streamseg.evaluation.percentages import explain_undefined, percent
from streamseg.evaluation.plots import require_matplotlib, write_plots
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.scores import Evaluation, evaluate, match_dataset, write_json
from streamseg.evaluation.segmenter import Scaled, SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.redaction import printable
from streamseg.runtime.bundle.claims import describe_assumed

FOLDER = click.Path(file_okay=False, path_type=Path)


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the summary and the IoU of each class."""
    scores = evaluation.scores
    state = "reset every frame" if evaluation.stateless else "with state"
    title = f"{evaluation.subject} on {evaluation.dataset} {evaluation.split}, {state}"
    summary = Table(title=title, show_header=False, title_justify="left")
    rows = [
        ("mIoU", percent(scores.miou)),
        ("weighted IoU", percent(scores.weighted_iou)),
        ("pixel accuracy", percent(scores.pixel_accuracy)),
    ]
    for n, value in scores.mvc.items():
        correct = percent(scores.mvc_correct[n])
        rows.append((f"mVC{n} (also correct)", f"{percent(value)} ({correct})"))
    rows += [
        ("frames (labelled)", f"{scores.frames} ({scores.labelled_frames})"),
        ("frames a second", f"{evaluation.fps:.2f}"),
        ("classes matched", evaluation.classes_matched),
        *(("labels", note) for note in evaluation.notes),
        *(("assumed", line) for line in describe_assumed(evaluation.assumed)),
    ]
    for name, text in rows:
        summary.add_row(name, text)
    classes = Table("class", "IoU, %")
    classes.columns[1].justify = "right"
    for name, value in zip(evaluation.class_names, scores.iou, strict=True):
        classes.add_row(Text(printable(name)), percent(value))
    console.print(summary)
    console.print(classes)
    for line in explain_undefined(evaluation.undefined):
        console.print(line, highlight=False)


@click.command("eval")
@click.argument("subject", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, metavar="NAME:ROOT", help=f"One of {', '.join(DATASETS)}")
@click.option("--split", default="val", show_default=True, help="train, val or test.")
@click.option("--stateless", is_flag=True, help="Reset the state before every frame.")
@click.option("--vspw-script", is_flag=True, help="Score as VSPW's own evaluator does.")
@click.option("--backend", default="auto", show_default=True, help="Of a bundle.")
@click.option("--native/--no-native", default=None, help="Insist on native operators, or on none.")
@click.option("--size", type=SIZE, help="Frame size HxW of a checkpoint.")
@setting_options
@classes_by_option
@click.option(
    "--scale",
    type=click.Choice(["labels", "logits"]),
    help="What is brought to the size of the dataset's labels. By default the labels of a bundle, "
    "as run writes them, and the logits of a checkpoint, as papers do.",
)
@click.option("--json", "json_path", type=OUTPUT_FILE, help="Write results here.")
@click.option("-o", "--out", type=FOLDER, help="Write plots into this folder.")
def command(
    subject: Path,
    dataset: str,
    split: str,
    stateless: bool,
    vspw_script: bool,
    backend: str,
    native: bool | None,
    size: tuple[int, int] | None,
    settings: dict[str, str],
    classes_by: ClassesBy,
    scale: Scaled | None,
    json_path: Path | None,
    out: Path | None,
) -> None:
    """Score SUBJECT, a bundle or a checkpoint, on a labelled dataset.

    mIoU, IoU of each class, weighted IoU, pixel accuracy, mVC8, mVC16 and frames a second.
    """
    if out is not None:
        require_matplotlib()
    opened = open_dataset(dataset, split)
    options = SegmenterOptions(backend, native, size, settings, scaled=scale)
    console = Console()
    with open_segmenter(subject, options) as segmenter:
        match_dataset(segmenter, opened, classes_by=classes_by)
        with frame_progress(opened.frame_count) as advance:
            evaluation = evaluate(
                segmenter,
                opened,
                stateless=stateless,
                classes_by=classes_by,
                vspw_script=vspw_script,
                progress=advance,
            )
    print_evaluation(evaluation, console)
    if json_path is not None:
        write_json(evaluation.as_json(), json_path)
    if out is not None:
        for path in write_plots(evaluation, opened.classes, out):
            console.print(f"wrote {path}")

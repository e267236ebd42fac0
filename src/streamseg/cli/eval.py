"""``streamseg eval``: accuracy and consistency of a model on a labelled dataset."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from streamseg.cli.options import OUTPUT_FILE, SIZE, classes_by_option
from streamseg.cli.score_tables import (
    print_clips,
    print_evaluation,
    print_history,
    print_pairs,
)
from streamseg.cli.setting_options import setting_options
from streamseg.errors import DatasetError
from streamseg.evaluation.class_matching import ClassesBy
from streamseg.evaluation.corruptions import Corruption, corrupt_dataset
from streamseg.evaluation.datasets import DATASETS, Dataset, open_dataset
from streamseg.evaluation.history_lengths import parse_lengths, study_history
from streamseg.evaluation.metrics import MetricOptions
from streamseg.evaluation.optical_flow import FLOW_METHODS, FlowMethod
from streamseg.evaluation.plots import (
    draw_history,
    require_matplotlib,
    save_figure,
    write_plots,
)
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.resampling import compare_pairs
from streamseg.evaluation.scores import Evaluation, evaluate, match_dataset, write_json
from streamseg.evaluation.segmenter import Scaled, Segmenter, SegmenterOptions
from streamseg.evaluation.subjects import open_pair, open_segmenter
from streamseg.files import make_folder

FOLDER = click.Path(file_okay=False, path_type=Path)


def read_windows(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """``"8,16"`` to numbers."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected numbers such as 8,16") from None


@click.command("eval")
@click.argument("subject", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, metavar="NAME:ROOT", help=f"One of {', '.join(DATASETS)}")
@click.option("--split", default="val", show_default=True, help="train, val or test.")
@click.option("--stateless", is_flag=True, help="Reset the state before every frame.")
@click.option(
    "--history",
    metavar="N,N,...,all",
    help="One row for each N: the state is reset so that each output sees N frames.",
)
@click.option("--against", metavar="SUBJECT", help="Score this too, and test the difference.")
@click.option(
    "--mvc",
    "windows",
    default="8,16",
    show_default=True,
    callback=read_windows,
    help="Window lengths n of mVCn.",
)
@click.option("--boundary", is_flag=True, help="Measure the boundary F-score.")
@click.option(
    "--flow",
    type=click.Choice(list(FLOW_METHODS)),
    help="Measure temporal consistency (TC) with this optical flow.",
)
@click.option(
    "--corrupt",
    metavar="KIND:SEVERITY[:SEED]",
    help="Corrupt the frames as Cityscapes-C does, e.g. fog:3.",
)
@click.option("--clips", "show_clips", is_flag=True, help="Print a row for each clip.")
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
    history: str | None,
    against: str | None,
    windows: tuple[int, ...],
    boundary: bool,
    flow: FlowMethod | None,
    corrupt: str | None,
    show_clips: bool,
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

    mIoU, IoU of each class, weighted IoU, pixel accuracy, mVCn, flicker rate and frames a second,
    with 95 % intervals over clips.
    """
    if out is not None:
        require_matplotlib()
    if history is not None and (stateless or against is not None):
        raise click.UsageError("--history goes with neither --stateless nor --against")
    opened = open_dataset(dataset, split)
    if corrupt is not None:
        opened = corrupt_dataset(opened, Corruption.parse(corrupt))
    options = SegmenterOptions(backend, native, size, settings, scaled=scale)
    metrics = MetricOptions(windows, vspw_script, boundary, flow)
    run = _Run(opened, classes_by, metrics, show_clips, json_path, out)
    with ExitStack() as stack:
        if against is not None:
            run.pair(open_pair(str(subject), against, options, stack), stateless=stateless)
            return
        segmenter = stack.enter_context(open_segmenter(subject, options))
        if history is not None:
            run.lengths(segmenter, parse_lengths(history))
        else:
            run.single(segmenter, stateless=stateless)


class _Run:
    """One call of the command: what is measured on what, and where the results go."""

    def __init__(
        self,
        dataset: Dataset,
        classes_by: ClassesBy,
        metrics: MetricOptions,
        show_clips: bool,
        json_path: Path | None,
        out: Path | None,
    ) -> None:
        self._dataset = dataset
        self._classes_by = classes_by
        self._metrics = metrics
        self._show_clips = show_clips
        self._json_path = json_path
        self._out = out
        self._console = Console()

    def _evaluate(self, segmenter: Segmenter, *, stateless: bool) -> Evaluation:
        match_dataset(segmenter, self._dataset, classes_by=self._classes_by)
        with frame_progress(self._dataset.frame_count) as advance:
            evaluation = evaluate(
                segmenter,
                self._dataset,
                history=1 if stateless else None,
                classes_by=self._classes_by,
                options=self._metrics,
                progress=advance,
            )
        print_evaluation(evaluation, self._console)
        if self._show_clips:
            print_clips(evaluation.clips, self._console)
        return evaluation

    def _write_json(self, content: dict[str, Any]) -> None:
        if self._json_path is not None:
            write_json(content, self._json_path)

    def single(self, segmenter: Segmenter, *, stateless: bool) -> None:
        evaluation = self._evaluate(segmenter, stateless=stateless)
        self._write_json(evaluation.as_json())
        if self._out is not None:
            for path in write_plots([evaluation], self._dataset.classes, self._out):
                self._console.print(f"wrote {path}")

    def pair(self, segmenters: tuple[Segmenter, Segmenter], *, stateless: bool) -> None:
        a, b = (self._evaluate(segmenter, stateless=stateless) for segmenter in segmenters)
        tests = compare_pairs(b.clips, a.clips, vspw_script=self._metrics.vspw_script)
        print_pairs(tests, b.subject, a.subject, self._console)
        self._write_json(
            {
                "results": [a.as_json(), b.as_json()],
                "pairs": [asdict(test) for test in tests],
            }
        )
        if self._out is not None:
            for path in write_plots([a, b], self._dataset.classes, self._out):
                self._console.print(f"wrote {path}")

    def lengths(self, segmenter: Segmenter, lengths: tuple[int | None, ...]) -> None:
        match_dataset(segmenter, self._dataset, classes_by=self._classes_by)
        with frame_progress(None) as advance:
            study = study_history(
                segmenter,
                self._dataset,
                lengths,
                classes_by=self._classes_by,
                options=self._metrics,
                watch=lambda length: lambda clip: advance(f"{length}: {clip}"),
            )
        print_history(study, self._console)
        self._write_json(study.as_json())
        if self._out is not None:
            make_folder(self._out, DatasetError)
            path = self._out / "history.png"
            save_figure(draw_history(study), path)
            self._console.print(f"wrote {path}")

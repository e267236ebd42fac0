"""``streamseg eval``: accuracy and consistency of a model on a labelled dataset."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import SETTINGS
from streamseg.cli.results import json_option, open_console, write_result
from streamseg.cli.score_tables import (
    print_clips,
    print_evaluation,
    print_history,
    print_pairs,
    print_prototypes,
)
from streamseg.cli.setting_options import setting_options
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.errors import DatasetError
from streamseg.evaluation.class_matching import ClassesBy, MatchingOptions
from streamseg.evaluation.clip_prototypes import (
    PrototypeSource,
    give_prototypes,
    parse_source,
)
from streamseg.evaluation.corruptions import Corruption, corrupt_dataset
from streamseg.evaluation.datasets import Dataset, DatasetOptions
from streamseg.evaluation.history_lengths import parse_lengths, study_history
from streamseg.evaluation.metrics import MetricOptions
from streamseg.evaluation.plots import (
    draw_history,
    require_matplotlib,
    save_figure,
    write_plots,
)
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.resampling import compare_pairs
from streamseg.evaluation.scores import Evaluation, evaluate, match_dataset
from streamseg.evaluation.segmenter import Segmenter, SegmenterOptions
from streamseg.evaluation.subjects import open_pair, open_segmenter, require_subject
from streamseg.files import make_folder

FOLDER = click.Path(file_okay=False, path_type=Path)


@subcommand(
    "eval",
    examples=(
        "eval street/ --dataset camvid:CamVid",
        "eval street.safetensors --size 256x512 --dataset vspw:VSPW_480p --json scores.json",
    ),
    removed={**SETTINGS, "--scale": "write --scaled", "--clips": "write --per-clip"},
)
@click.argument("subject", type=PLACE)
@dataclass_options(DatasetOptions, "clips", "Scores")
@json_option
@grouped("-o", "--out", type=FOLDER, help="Folder for plots.")
@grouped("--against", metavar="SUBJECT", help="Also score this model and test the difference.")
@grouped("--stateless", is_flag=True, group="Scores", help="Reset the state before every frame.")
@grouped(
    "--history",
    metavar="N,N,...,all",
    group="Scores",
    help="Print a row for each N: the state is reset so that each output sees N frames.",
)
@dataclass_options(MetricOptions, "metrics", "Scores")
@grouped(
    "--corrupt",
    metavar="KIND:SEVERITY[:SEED]",
    group="Scores",
    help="Corrupt the frames as Cityscapes-C does, e.g. fog:3.",
)
@grouped(
    "--prototypes",
    multiple=True,
    metavar="clip|stored|FOLDER",
    group="Scores",
    help="Prototypes of CFFM++, one row for each: of each clip (not causal), of the bundle, files.",
)
@grouped(
    "--prototype-cache",
    type=FOLDER,
    group="Scores",
    help="Folder for the prototypes of --prototypes clip.",
)
@grouped("--per-clip", is_flag=True, group="Scores", help="Print a row for each clip.")
@dataclass_options(MatchingOptions, "matching", "Scores")
@dataclass_options(SegmenterOptions, "scaling", "Scores", only=("scaled",))
@dataclass_options(SegmenterOptions, "checkpoint", "Checkpoints", only=("size",))
@setting_options("Checkpoints")
@dataclass_options(SegmenterOptions, "options", "Backend", only=("backend", "native", "threads"))
def command(
    subject: Path,
    clips: DatasetOptions,
    json_path: Path | None,
    out: Path | None,
    against: str | None,
    stateless: bool,
    history: str | None,
    metrics: MetricOptions,
    corrupt: str | None,
    prototypes: tuple[str, ...],
    prototype_cache: Path | None,
    per_clip: bool,
    matching: MatchingOptions,
    scaling: SegmenterOptions,
    checkpoint: SegmenterOptions,
    settings: dict[str, str],
    options: SegmenterOptions,
) -> None:
    """Score SUBJECT, a bundle or a checkpoint, on a labelled dataset.

    Prints mIoU, IoU of each class, weighted IoU, pixel accuracy, mVCn, flicker rate and frames per
    second, with 95 % intervals over clips.
    """
    if out is not None:
        require_matplotlib()
    if history is not None and (stateless or against is not None):
        raise click.UsageError("--history cannot be combined with --stateless or --against")
    if prototypes and (stateless or against is not None or history is not None):
        raise click.UsageError(
            "--prototypes cannot be combined with --stateless, --against or --history"
        )
    chosen = replace(options, size=checkpoint.size, settings=settings, scaled=scaling.scaled)
    for text in (str(subject), *([] if against is None else [against])):
        require_subject(text, chosen)
    metrics = replace(metrics, windows=tuple(sorted(set(metrics.windows))))
    lengths = None if history is None else parse_lengths(history)
    opened = clips.open()
    if corrupt is not None:
        opened = corrupt_dataset(opened, Corruption.parse(corrupt))
    run = _Run(opened, matching.classes_by, metrics, per_clip, json_path, out)
    with ExitStack() as stack:
        with show_phases(f"opening {subject}"):
            if against is not None:
                pair = open_pair(str(subject), against, chosen, stack)
            else:
                segmenter = stack.enter_context(open_segmenter(subject, chosen))
        if against is not None:
            run.pair(pair, stateless=stateless)
        elif lengths is not None:
            run.lengths(segmenter, lengths)
        elif prototypes:
            sources = [parse_source(text, cache=prototype_cache) for text in prototypes]
            run.prototypes(segmenter, sources)
        else:
            run.single(segmenter, stateless=stateless)


@dataclass(frozen=True)
class _Run:
    """One call of the command: what is measured on what, and where the results go."""

    dataset: Dataset
    classes_by: ClassesBy
    metrics: MetricOptions
    per_clip: bool
    json_path: Path | None
    out: Path | None

    @property
    def console(self) -> Console:
        """Where tables are printed."""
        return open_console(self.json_path)

    def _evaluate(self, segmenter: Segmenter, *, stateless: bool) -> Evaluation:
        match_dataset(segmenter, self.dataset, classes_by=self.classes_by)
        with frame_progress(self.dataset.frame_count) as advance:
            evaluation = evaluate(
                segmenter,
                self.dataset,
                history=1 if stateless else None,
                classes_by=self.classes_by,
                options=self.metrics,
                progress=advance,
            )
        print_evaluation(evaluation, self.console)
        if self.per_clip:
            print_clips(evaluation.clips, self.console)
        return evaluation

    def single(self, segmenter: Segmenter, *, stateless: bool) -> None:
        evaluation = self._evaluate(segmenter, stateless=stateless)
        write_result(evaluation.as_json(), self.json_path)
        if self.out is not None:
            for path in write_plots([evaluation], self.dataset.classes, self.out):
                self.console.print(f"wrote {path}")

    def pair(self, segmenters: tuple[Segmenter, Segmenter], *, stateless: bool) -> None:
        a, b = (self._evaluate(segmenter, stateless=stateless) for segmenter in segmenters)
        tests = compare_pairs(b.clips, a.clips, vspw_script=self.metrics.vspw_script)
        print_pairs(tests, b.subject, a.subject, self.console)
        write_result(
            {
                "results": [a.as_json(), b.as_json()],
                "pairs": [asdict(test) for test in tests],
            },
            self.json_path,
        )
        if self.out is not None:
            for path in write_plots([a, b], self.dataset.classes, self.out):
                self.console.print(f"wrote {path}")

    def prototypes(self, segmenter: Segmenter, sources: list[PrototypeSource]) -> None:
        match_dataset(segmenter, self.dataset, classes_by=self.classes_by)
        found: list[Evaluation] = []
        for source in sources:
            with frame_progress(self.dataset.frame_count) as advance:
                found.append(
                    evaluate(
                        segmenter,
                        self.dataset,
                        classes_by=self.classes_by,
                        options=self.metrics,
                        prepare=partial(give_prototypes, source=source),
                        progress=advance,
                    )
                )
        print_prototypes(found, sources, self.console)
        rows = [
            {"prototypes": source.name, "causal": source.causal, **evaluation.as_json()}
            for source, evaluation in zip(sources, found, strict=True)
        ]
        write_result({"rows": rows}, self.json_path)

    def lengths(self, segmenter: Segmenter, lengths: tuple[int | None, ...]) -> None:
        match_dataset(segmenter, self.dataset, classes_by=self.classes_by)
        with frame_progress(None) as advance:
            study = study_history(
                segmenter,
                self.dataset,
                lengths,
                classes_by=self.classes_by,
                options=self.metrics,
                watch=lambda length: lambda clip: advance(f"{length}: {clip}"),
            )
        print_history(study, self.console)
        write_result(study.as_json(), self.json_path)
        if self.out is not None:
            make_folder(self.out, DatasetError)
            path = self.out / "history.png"
            save_figure(draw_history(study), path)
            self.console.print(f"wrote {path}")

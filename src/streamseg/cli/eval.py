"""``streamseg eval``: accuracy and consistency of a model on a labelled dataset."""

from __future__ import annotations

from collections.abc import Sequence
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
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.destinations import FOLDER, Destination
from streamseg.errors import DatasetError
from streamseg.evaluation.class_matching import MatchingOptions
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
from streamseg.evaluation.resampling import PairedTest, compare_pairs
from streamseg.evaluation.score_page import render_scores
from streamseg.evaluation.scores import Evaluation, EvaluationOptions, evaluate, match_dataset
from streamseg.evaluation.segmenter import Segmenter, SegmenterOptions
from streamseg.evaluation.subjects import open_pair, open_segmenter, require_subjects
from streamseg.files import check_place, make_folder, whole_file
from streamseg.option_fields import option

PLOTS = Destination(file=True, folder=True, suffixes=(".html",))


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is scored: a model once, against another, with other histories or prototypes.

    Attributes:
        against: a second model, for a test in pairs.
        stateless: reset the state before every frame.
        history: lengths of the history, as text; see ``parse_lengths``.
        corrupt: corruption of the frames, as text; see ``Corruption.parse``.
        prototypes: sources of prototypes, as text; see ``parse_source``.
        prototype_cache: folder in which prototypes of clips are kept.
        per_clip: print a row for each clip.
    """

    against: str | None = option(
        "Also score this model and test the difference.",
        default=None,
        metavar="SUBJECT",
        common=True,
    )
    stateless: bool = option("Reset the state before every frame.", default=False)
    history: str | None = option(
        "Print a row for each N: the state is reset so that each output sees N frames.",
        default=None,
        metavar="N,N,...,all",
    )
    corrupt: str | None = option(
        "Corrupt the frames as Cityscapes-C does, e.g. fog:3.",
        default=None,
        metavar="KIND:SEVERITY[:SEED]",
    )
    prototypes: tuple[str, ...] = option(
        "Prototypes of CFFM++: of each clip (not causal), of the bundle, or from files; may be "
        "repeated, one row for each.",
        default=(),
        metavar="clip|stored|FOLDER",
    )
    prototype_cache: Path | None = option(
        "Folder for the prototypes of --prototypes clip.", default=None, written=FOLDER
    )
    per_clip: bool = option("Print a row for each clip.", default=False)

    def check(self) -> None:
        """Raise UsageError where two of them exclude each other."""
        single = self.stateless or self.against is not None
        if self.history is not None and single:
            raise click.UsageError("--history cannot be combined with --stateless or --against")
        if self.prototypes and (single or self.history is not None):
            raise click.UsageError(
                "--prototypes cannot be combined with --stateless, --against or --history"
            )


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
@grouped(
    "-o", "--out", type=OutputType(PLOTS), help="Folder for plots, or a page with them (.html)."
)
@dataclass_options(StudyOptions, "study", "Scores")
@dataclass_options(MetricOptions, "metrics", "Scores")
@dataclass_options(MatchingOptions, "matching", "Scores")
@dataclass_options(SegmenterOptions, "scaling", "Scores", only=("scaled",))
@dataclass_options(SegmenterOptions, "checkpoint", "Checkpoints", only=("size",))
@setting_options("Checkpoints")
@dataclass_options(
    SegmenterOptions, "options", "Backend", only=("backend", "native", "precision", "threads")
)
def command(
    subject: Path,
    clips: DatasetOptions,
    json_path: Path | None,
    out: Path | None,
    study: StudyOptions,
    metrics: MetricOptions,
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
        _check_out(out, plain=study.history is None and not study.prototypes)
    study.check()
    against = study.against
    chosen = replace(options, size=checkpoint.size, settings=settings, scaled=scaling.scaled)
    require_subjects([str(subject), *([] if against is None else [against])], chosen)
    metrics = replace(metrics, windows=tuple(sorted(set(metrics.windows))))
    lengths = None if study.history is None else parse_lengths(study.history)
    opened = clips.open()
    if study.corrupt is not None:
        opened = corrupt_dataset(opened, Corruption.parse(study.corrupt))
    scoring = EvaluationOptions(
        history=1 if study.stateless else None, classes_by=matching.classes_by, metrics=metrics
    )
    run = _Run(opened, scoring, study.per_clip, json_path, out)
    with ExitStack() as stack:
        with show_phases(f"opening {subject}"):
            if against is not None:
                pair = open_pair(str(subject), against, chosen, stack)
            else:
                segmenter = stack.enter_context(open_segmenter(subject, chosen))
        if against is not None:
            run.pair(pair)
        elif lengths is not None:
            run.lengths(segmenter, lengths)
        elif study.prototypes:
            cache = study.prototype_cache
            run.prototypes(segmenter, [parse_source(t, cache=cache) for t in study.prototypes])
        else:
            run.single(segmenter)


def _check_out(out: Path, *, plain: bool) -> None:
    """Check where plots or a page go, before anything is scored.

    Raises:
        DatasetError: plots need matplotlib, the place cannot be written, or there is no such page.
    """
    if out.suffix.lower() != ".html":
        require_matplotlib()
    elif not plain:
        raise DatasetError("--history and --prototypes write plots: name a folder with --out")
    else:
        check_place(out, DatasetError)


@dataclass(frozen=True)
class _Run:
    """One call of the command: what is measured on what, and where the results go."""

    dataset: Dataset
    scoring: EvaluationOptions
    per_clip: bool
    json_path: Path | None
    out: Path | None

    @property
    def console(self) -> Console:
        """Where tables are printed."""
        return open_console(self.json_path)

    def _match(self, segmenter: Segmenter) -> None:
        match_dataset(segmenter, self.dataset, classes_by=self.scoring.classes_by)

    def _evaluate(self, segmenter: Segmenter) -> Evaluation:
        self._match(segmenter)
        with frame_progress(self.dataset.frame_count) as advance:
            evaluation = evaluate(segmenter, self.dataset, self.scoring, progress=advance)
        print_evaluation(evaluation, self.console)
        if self.per_clip:
            print_clips(evaluation.clips, self.console)
        return evaluation

    def single(self, segmenter: Segmenter) -> None:
        evaluation = self._evaluate(segmenter)
        write_result(evaluation.as_json(), self.json_path)
        self._show([evaluation], [])

    def pair(self, segmenters: tuple[Segmenter, Segmenter]) -> None:
        a, b = (self._evaluate(segmenter) for segmenter in segmenters)
        tests = compare_pairs(b.clips, a.clips, vspw_script=self.scoring.metrics.vspw_script)
        print_pairs(tests, b.subject, a.subject, self.console)
        write_result(
            {
                "results": [a.as_json(), b.as_json()],
                "pairs": [asdict(test) for test in tests],
            },
            self.json_path,
        )
        self._show([a, b], tests)

    def _show(self, evaluations: list[Evaluation], tests: Sequence[PairedTest]) -> None:
        """Write the plots or the page, where ``--out`` asks for them."""
        if self.out is None:
            return
        paths = [self.out]
        if self.out.suffix.lower() == ".html":
            content = render_scores(evaluations, self.dataset.classes, tests)
            with whole_file(self.out, DatasetError) as draft:
                draft.write_text(content, encoding="utf-8")
        else:
            paths = write_plots(evaluations, self.dataset.classes, self.out)
        for path in paths:
            self.console.print(f"wrote {path}")

    def prototypes(self, segmenter: Segmenter, sources: list[PrototypeSource]) -> None:
        self._match(segmenter)
        found: list[Evaluation] = []
        for source in sources:
            with frame_progress(self.dataset.frame_count) as advance:
                found.append(
                    evaluate(
                        segmenter,
                        self.dataset,
                        self.scoring,
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
        self._match(segmenter)
        with frame_progress(None) as advance:
            study = study_history(
                segmenter,
                self.dataset,
                lengths,
                self.scoring,
                watch=lambda length: lambda clip: advance(f"{length}: {clip}"),
            )
        print_history(study, self.console)
        write_result(study.as_json(), self.json_path)
        if self.out is not None:
            make_folder(self.out, DatasetError)
            path = self.out / "history.png"
            save_figure(draw_history(study), path)
            self.console.print(f"wrote {path}")

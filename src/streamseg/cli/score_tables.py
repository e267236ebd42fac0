"""Tables of evaluations: one model, one model over history lengths, two models in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamseg.counting import count_of
from streamseg.evaluation.clip_prototypes import PrototypeSource
from streamseg.evaluation.history_lengths import HistoryStudy, name_length
from streamseg.evaluation.metrics import ClipScores
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.resampling import PairedTest
from streamseg.evaluation.score_page import class_rows, describe_run, summary_rows
from streamseg.evaluation.scores import Evaluation
from streamseg.redaction import printable


def _numbers(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the summary and the figures of each class."""
    summary = Table(title=describe_run(evaluation), show_header=False, title_justify="left")
    for name, text in summary_rows(evaluation):
        summary.add_row(name, Text(text))
    head, *rows = class_rows(evaluation)
    classes = _numbers("", *head)
    for name, *cells in rows:
        classes.add_row(Text(printable(name)), *cells)
    console.print(summary)
    console.print(classes)
    for line in evaluation.explanations:
        console.print(line, highlight=False)


def print_clips(clips: Sequence[ClipScores], console: Console) -> None:
    """Print a row for each clip."""
    sizes = list(clips[0].windows)
    measured = any(clip.warped.size for clip in clips)
    table = _numbers(
        "clips",
        "clip",
        "frames",
        "mIoU, %",
        "accuracy, %",
        *(f"VC{n}, %" for n in sizes),
        "flicker, %",
        *(["TC, %"] if measured else []),
    )
    for clip in clips:
        values = [clip.miou, clip.pixel_accuracy, *(clip.vc(n) for n in sizes)]
        values += [clip.flicker_rate, *([clip.tc] if measured else [])]
        name = Text(printable(clip.name))
        table.add_row(name, str(clip.frames), *(percent(value) for value in values))
    console.print(table)


def print_history(study: HistoryStudy, console: Console) -> None:
    """Print a row for each history length, with what it costs."""
    first = study.evaluations[0]
    title = f"{first.subject} on {first.dataset} {first.split}: frames that each output sees"
    sizes = list(first.scores.mvc)
    table = _numbers(
        title,
        "frames",
        "mIoU, %",
        *(f"mVC{n}, %" for n in sizes),
        "steps a frame",
        "ms a frame",
    )
    for evaluation in study.evaluations:
        scores = evaluation.scores
        table.add_row(
            name_length(evaluation.history),
            percent(scores.miou),
            *(percent(scores.mvc[n]) for n in sizes),
            f"{evaluation.steps / scores.frames:.0f}",
            f"{1000 / evaluation.fps:.1f}",
        )
    console.print(table)
    console.print(
        f"{first.scores.labelled_frames} labelled frames of "
        f"{count_of(len(first.clips), 'clip')}; the first "
        f"{count_of(study.skipped, 'frame')} of each are not scored, "
        f"and {len(study.left_out)} shorter clips are left out",
        highlight=False,
    )


def print_prototypes(
    evaluations: Sequence[Evaluation], sources: Sequence[PrototypeSource], console: Console
) -> None:
    """Print a row for each source of prototypes."""
    first = evaluations[0]
    title = f"{first.subject} on {first.dataset} {first.split}: prototypes"
    sizes = list(first.scores.mvc)
    table = _numbers(title, "from", "mIoU, %", *(f"mVC{n}, %" for n in sizes), "causal")
    for evaluation, source in zip(evaluations, sources, strict=True):
        scores = evaluation.scores
        values = (percent(value) for value in (scores.miou, *scores.mvc.values()))
        table.add_row(Text(printable(source.name)), *values, "yes" if source.causal else "no")
    console.print(table)
    if not all(source.causal for source in sources):
        console.print(
            "not causal: the prototypes of a clip come from the whole clip, as published, which a "
            "live stream cannot have",
            highlight=False,
        )


def print_pairs(tests: Sequence[PairedTest], a: str, b: str, console: Console) -> None:
    """Print the paired tests of two models."""
    table = _numbers(
        f"{b} against {a}",
        "figure",
        "difference, points",
        "95 % interval",
        "clips above",
        "below",
        "p",
    )
    for test in tests:
        table.add_row(
            test.metric,
            f"{test.difference * 100:+.2f}",
            f"{test.interval.low * 100:+.2f} to {test.interval.high * 100:+.2f}",
            f"{test.better} of {test.clips}",
            str(test.worse),
            f"{test.p_value:.4f}",
        )
    console.print(table)
    console.print(
        "differences are over the whole set; intervals resample pairs of clips; p is of a "
        "two-sided paired sign-flip test over clips",
        highlight=False,
    )

"""Tables of evaluations: one model, one model over history lengths, two models in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamseg.evaluation.clip_prototypes import PrototypeSource
from streamseg.evaluation.history_lengths import HistoryStudy, name_length
from streamseg.evaluation.metrics import ClipScores
from streamseg.evaluation.optical_flow import FLOW_METHODS
from streamseg.evaluation.percentages import explain_undefined, percent
from streamseg.evaluation.resampling import PairedTest
from streamseg.evaluation.scores import Evaluation
from streamseg.redaction import printable
from streamseg.runtime.bundle.claims import describe_assumed


def _numbers(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def describe_history(history: int | None) -> str:
    """What each output saw: ``with state``, ``reset every frame``."""
    if history is None:
        return "with state"
    return "reset every frame" if history == 1 else f"{history} frames of history"


def _summary(evaluation: Evaluation) -> list[tuple[str, str]]:
    scores, intervals = evaluation.scores, evaluation.intervals

    def figure(value: float, name: str) -> str:
        interval = intervals.get(name)
        if interval is None:
            return percent(value)
        return f"{percent(value)} [{percent(interval.low)}, {percent(interval.high)}]"

    rows = [
        ("mIoU", figure(scores.miou, "miou")),
        ("weighted IoU", figure(scores.weighted_iou, "weighted_iou")),
        ("pixel accuracy", figure(scores.pixel_accuracy, "pixel_accuracy")),
    ]
    for n, value in scores.mvc.items():
        correct = percent(scores.mvc_correct[n])
        rows.append((f"mVC{n} (also correct)", f"{figure(value, f'mvc{n}')} ({correct})"))
    rows.append(("flicker rate", figure(scores.flicker_rate, "flicker_rate")))
    if evaluation.options.boundary:
        rows.append(("boundary F-score", figure(scores.boundary_f, "boundary_f")))
    if evaluation.options.flow is not None:
        flow = FLOW_METHODS[evaluation.options.flow]
        rows.append(("temporal consistency", f"{figure(scores.tc, 'tc')}, flow: {flow}"))
    clips = len(evaluation.clips)
    how = f"95 %, by bootstrap over {clips} clips" if intervals else "none: needs 2 clips or more"
    return [*rows, ("intervals", how)]


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the summary and the figures of each class."""
    scores = evaluation.scores
    state = describe_history(evaluation.history)
    title = f"{evaluation.subject} on {evaluation.dataset} {evaluation.split}, {state}"
    summary = Table(title=title, show_header=False, title_justify="left")
    rows = [
        *_summary(evaluation),
        ("frames (labelled)", f"{scores.frames} ({scores.labelled_frames})"),
        ("frames a second", f"{evaluation.fps:.2f}"),
        ("classes matched", evaluation.classes_matched),
        *(("note", note) for note in evaluation.notes),
        *(("assumed", line) for line in describe_assumed(evaluation.assumed)),
    ]
    for name, text in rows:
        summary.add_row(name, Text(text))
    boundary = evaluation.options.boundary
    heads = ["class", "IoU, %", "flicker, %", *(["boundary F, %"] if boundary else [])]
    classes = _numbers("", *heads)
    for index, name in enumerate(evaluation.class_names):
        values = [scores.iou[index], scores.flicker[index]]
        values += [scores.boundary[index]] if boundary else []
        classes.add_row(Text(printable(name)), *(percent(value) for value in values))
    console.print(summary)
    console.print(classes)
    for line in explain_undefined(evaluation.undefined):
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
        f"{first.scores.labelled_frames} labelled frames of {len(first.clips)} clips; the first "
        f"{study.skipped} frames of each are not scored, and {len(study.left_out)} shorter clips "
        "are left out",
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

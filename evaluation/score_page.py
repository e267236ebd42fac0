"""Evaluations as rows of tables, and as a page: figures, classes, plots and the worst frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streamseg.counting import count_of
from streamseg.evaluation.datasets import SegmentationClass
from streamseg.evaluation.html_page import (
    heading,
    legend,
    page,
    paragraph,
    picture,
    plot,
    table,
)
from streamseg.evaluation.optical_flow import FLOW_METHODS
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.plots import draw_class_bars, draw_timeline, draw_worst
from streamseg.evaluation.resampling import PairedTest
from streamseg.evaluation.scores import Evaluation
from streamseg.runtime.bundle.claims import describe_assumed


def describe_history(history: int | None) -> str:
    """What each output saw: ``with state``, ``reset every frame``."""
    if history is None:
        return "with state"
    return "reset every frame" if history == 1 else f"{count_of(history, 'frame')} of history"


def _figure_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
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
    how = (
        f"95 %, by bootstrap over {count_of(clips, 'clip')}"
        if intervals
        else "none: needs 2 clips or more"
    )
    return [*rows, ("intervals", how)]


def summary_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Name and text of everything but the classes."""
    scores = evaluation.scores
    return [
        *_figure_rows(evaluation),
        ("frames (labelled)", f"{scores.frames} ({scores.labelled_frames})"),
        ("frames a second", f"{evaluation.fps:.2f}"),
        ("classes matched", evaluation.classes_matched),
        *(("note", note) for note in evaluation.notes),
        *(("assumed", line) for line in describe_assumed(evaluation.assumed)),
    ]


def class_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """The head, then a row for each class: name, IoU, flicker and, where measured, boundary F."""
    scores, boundary = evaluation.scores, evaluation.options.boundary
    yield ["class", "IoU, %", "flicker, %", *(["boundary F, %"] if boundary else [])]
    for index, name in enumerate(evaluation.class_names):
        values = [scores.shown_iou[index], scores.flicker[index]]
        values += [scores.boundary[index]] if boundary else []
        yield [name, *(percent(value) for value in values)]


def describe_run(evaluation: Evaluation) -> str:
    """What was scored on what, and with which state."""
    state = describe_history(evaluation.history)
    return f"{evaluation.subject} on {evaluation.dataset} {evaluation.split}, {state}"


def render_scores(
    evaluations: Sequence[Evaluation],
    classes: Sequence[SegmentationClass],
    tests: Sequence[PairedTest] = (),
) -> str:
    """One evaluation, or two of the same dataset, as HTML that refers to nothing outside itself.

    Args:
        evaluations: with the same classes.
        classes: of the dataset.
        tests: of the second against the first.
    """
    title = " and ".join(evaluation.subject for evaluation in evaluations)
    parts = [_pairs(evaluations, tests)] if tests else []
    for evaluation in evaluations:
        head, *rows = class_rows(evaluation)
        parts += [
            heading(describe_run(evaluation)),
            table(["", ""], summary_rows(evaluation)),
            table(head, rows),
            *(paragraph(line) for line in evaluation.explanations),
        ]
    parts += [
        plot(lambda: draw_class_bars(evaluations), "IoU of each class"),
        plot(lambda: draw_timeline(evaluations), "mIoU over time"),
    ]
    for evaluation in evaluations:
        if evaluation.worst:
            parts += [
                heading(f"Worst frames of {evaluation.subject}"),
                legend((entry.name, entry.color) for entry in classes),
                picture(
                    draw_worst(evaluation, classes), "frame, label, prediction, wrong pixels in red"
                ),
            ]
    return page(f"{title}: {evaluations[0].dataset} {evaluations[0].split}", parts)


def _pairs(evaluations: Sequence[Evaluation], tests: Sequence[PairedTest]) -> str:
    first, second = evaluations
    rows = [
        [
            test.metric,
            f"{test.difference * 100:+.2f}",
            f"{test.interval.low * 100:+.2f} to {test.interval.high * 100:+.2f}",
            f"{test.better} of {test.clips}",
            str(test.worse),
            f"{test.p_value:.4f}",
        ]
        for test in tests
    ]
    head = ["figure", "difference, points", "95 % interval", "clips above", "below", "p"]
    return heading(f"{second.subject} against {first.subject}") + table(head, rows)

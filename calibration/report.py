"""The page that goes with a calibration: self-contained HTML with its plots inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamseg.calibration.quantisation import LayerError
from streamseg.counting import count_of
from streamseg.evaluation.difference_pictures import draw_difference, shown_classes
from streamseg.evaluation.drift import Comparison
from streamseg.evaluation.html_page import (
    heading,
    legend,
    note,
    page,
    paragraph,
    picture,
    plot,
    table,
)
from streamseg.evaluation.metrics import Scores
from streamseg.evaluation.percentages import UNDEFINED
from streamseg.evaluation.plots import draw_class_bars, draw_comparison, draw_timeline
from streamseg.evaluation.scores import Evaluation

_WORST_LAYERS = 15


@dataclass(frozen=True)
class Subject:
    """One precision in the report.

    ``bytes`` is the size of its graphs, ``step_ms`` the median step. ``evaluation`` and
    ``comparison`` (with the float32 bundle) are None where they were not requested.
    """

    name: str
    bytes: int
    step_ms: float | None = None
    evaluation: Evaluation | None = None
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Report:
    """Everything that the page shows; the first subject is the float32 reference.

    ``load_note`` doubts the times where other programs ran meanwhile.
    """

    title: str
    subjects: Sequence[Subject]
    record: Mapping[str, Any]
    machine: str
    ranking: Sequence[LayerError] = field(default=())
    kept: Sequence[str] = field(default=())
    load_note: str = ""


def _number(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    if value is None or math.isnan(value):
        return UNDEFINED
    return f"{value * scale:.{digits}f}"


def _percent(scores: Scores | None, read: Callable[[Scores], float]) -> str:
    return "-" if scores is None else _number(read(scores), scale=100)


def _summary(report: Report) -> str:
    first = report.subjects[0]
    rows = [
        ("graphs, MB", [_number(s.bytes / 1e6) for s in report.subjects]),
        ("smaller by", [f"{first.bytes / s.bytes:.2f}x" for s in report.subjects]),
        ("step, ms (median)", [_number(s.step_ms, 1) for s in report.subjects]),
        (
            "faster by",
            [
                f"{first.step_ms / s.step_ms:.2f}x" if first.step_ms and s.step_ms else "-"
                for s in report.subjects
            ],
        ),
    ]
    scores = [s.evaluation.scores if s.evaluation else None for s in report.subjects]
    if any(scores):
        rows += [
            ("mIoU, %", [_percent(s, lambda t: t.miou) for s in scores]),
            ("weighted IoU, %", [_percent(s, lambda t: t.weighted_iou) for s in scores]),
            ("pixel accuracy, %", [_percent(s, lambda t: t.pixel_accuracy) for s in scores]),
            ("mVC8, %", [_percent(s, lambda t: t.mvc[8]) for s in scores]),
            ("mVC16, %", [_percent(s, lambda t: t.mvc[16]) for s in scores]),
        ]
    drifts = [s.comparison for s in report.subjects]
    if any(drifts):
        rows += [
            ("equal labels, % (mean)", [_agreement(c) for c in drifts]),
            ("equal labels, % (last frame)", [_agreement(c, last=True) for c in drifts]),
            ("state error (last frame)", [_last_error(c) for c in drifts]),
            ("state error over the run", [c.trend() if c else "-" for c in drifts]),
        ]
    head = ["", *(subject.name for subject in report.subjects)]
    return table(head, [[name, *cells] for name, cells in rows])


def _agreement(comparison: Comparison | None, *, last: bool = False) -> str:
    if comparison is None:
        return "-"
    values = [frame.agreement for frame in comparison.frames]
    return _number(values[-1] if last else sum(values) / len(values), 3, 100)


def _last_error(comparison: Comparison | None) -> str:
    return "-" if comparison is None else f"{comparison.frames[-1].worst_state:.2e}"


def _class_table(evaluations: Sequence[Evaluation]) -> str:
    names = evaluations[0].class_names
    rows = [
        [name, *(_number(e.scores.shown_iou[i], scale=100) for e in evaluations)]
        for i, name in enumerate(names)
    ]
    return table(["IoU, %", *(evaluation.subject for evaluation in evaluations)], rows)


def _reasons(evaluations: Sequence[Evaluation]) -> list[str]:
    found = (line for entry in evaluations for line in entry.explanations)
    return list(dict.fromkeys(found))


def _drift_section(subject: Subject) -> str:
    comparison = subject.comparison
    if comparison is None:
        return ""
    crossing = comparison.first_crossing
    told = (
        f"No state error passed {comparison.threshold:g}."
        if crossing is None
        else f"The first state error past {comparison.threshold:g}: {crossing.name} at frame "
        f"{crossing.frame} ({crossing.error:.2e})."
    )
    title = f"Drift of {subject.name} over {count_of(len(comparison.frames), 'frame')}"
    drift = plot(lambda: draw_comparison(comparison), f"drift of {subject.name}")
    return "".join([heading(title), paragraph(told), drift])


def _examples(subject: Subject) -> str:
    """Pictures of the first, the worst and the last frame: float32, INT8 and where they differ."""
    comparison = subject.comparison
    if comparison is None or not comparison.examples:
        return ""
    worst = comparison.worst_frame
    pictures = [
        picture(
            draw_difference(frame, comparison),
            f"Frame {frame.index}{', the worst' if frame.index == worst else ''}: "
            f"{frame.agreement:.2%} of labels equal",
        )
        for frame in comparison.examples
    ]
    title = f"{subject.name} beside {comparison.a}"
    return "".join([heading(title), legend(shown_classes(comparison)), *pictures])


def render_report(report: Report) -> str:
    """The page as HTML without references to anything outside itself."""
    evaluations = [s.evaluation for s in report.subjects if s.evaluation is not None]
    parts = [
        _summary(report),
        paragraph(f"Measured on {report.machine}."),
        note(report.load_note),
        *(_examples(subject) for subject in report.subjects),
    ]
    if evaluations:
        first = evaluations[0]
        parts += [
            heading(f"Accuracy on {first.dataset} {first.split}"),
            paragraph(f"Classes matched {first.classes_matched}."),
            *(paragraph(f"Labels: {line}.") for line in first.notes),
            plot(lambda: draw_class_bars(evaluations), "IoU of each class"),
            plot(lambda: draw_timeline(evaluations), "mIoU over time"),
            _class_table(evaluations),
            *(paragraph(line) for line in _reasons(evaluations)),
        ]
    parts += [_drift_section(subject) for subject in report.subjects]
    if report.ranking:
        rows = [
            [entry.name, f"{entry.error:.2e}", "float32" if entry.name in report.kept else "INT8"]
            for entry in report.ranking[:_WORST_LAYERS]
        ]
        parts += [
            heading("Most sensitive layers"),
            paragraph("Relative error of the scores when only this layer is INT8."),
            table(["layer", "error", "kept as"], rows),
        ]
    rows = [[str(key), _listed(value)] for key, value in report.record.items()]
    parts += [heading("How it was calibrated"), table(["", ""], rows)]
    return page(report.title, parts)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

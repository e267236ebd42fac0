"""The page that goes with a calibration: self-contained HTML with its plots inside."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamseg.calibration.quantisation import LayerError
from streamseg.evaluation.drift import Comparison
from streamseg.evaluation.metrics import Scores
from streamseg.evaluation.percentages import UNDEFINED, explain_undefined
from streamseg.evaluation.plots import (
    draw_class_bars,
    draw_comparison,
    draw_timeline,
    has_matplotlib,
)
from streamseg.evaluation.scores import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
code { background: #f4f4f4; padding: 0 .2rem }
"""
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
    """Everything that the page shows; the first subject is the float32 reference."""

    title: str
    subjects: Sequence[Subject]
    record: Mapping[str, Any]
    machine: str
    ranking: Sequence[LayerError] = field(default=())
    kept: Sequence[str] = field(default=())


def _number(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    if value is None or math.isnan(value):
        return UNDEFINED
    return f"{value * scale:.{digits}f}"


def _percent(scores: Scores | None, read: Callable[[Scores], float]) -> str:
    return "-" if scores is None else _number(read(scores), scale=100)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        joined = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{joined}</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _picture(draw: Callable[[], Figure], caption: str) -> str:
    text = html.escape(caption)
    if not has_matplotlib():
        return f"<p>{text}: no plot, because matplotlib is not installed.</p>"
    buffer = io.BytesIO()
    draw().savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"></figure>'


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
    return _table(head, [[name, *cells] for name, cells in rows])


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
        [name, *(_number(e.scores.iou[i], scale=100) for e in evaluations)]
        for i, name in enumerate(names)
    ]
    return _table(["IoU, %", *(evaluation.subject for evaluation in evaluations)], rows)


def _reasons(evaluations: Sequence[Evaluation]) -> list[str]:
    found = (line for entry in evaluations for line in explain_undefined(entry.undefined))
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
    picture = _picture(lambda: draw_comparison(comparison), f"drift of {subject.name}")
    title = html.escape(f"Drift of {subject.name} over {len(comparison.frames)} frames")
    return f"<h2>{title}</h2><p>{html.escape(told)}</p>{picture}"


def render_report(report: Report) -> str:
    """The page as HTML without references to anything outside itself."""
    evaluations = [s.evaluation for s in report.subjects if s.evaluation is not None]
    parts = [
        f"<h1>{html.escape(report.title)}</h1>",
        _summary(report),
        f"<p>Measured on {html.escape(report.machine)}.</p>",
    ]
    if evaluations:
        first = evaluations[0]
        parts += [
            f"<h2>Accuracy on {html.escape(first.dataset)} {html.escape(first.split)}</h2>",
            f"<p>Classes matched {html.escape(first.classes_matched)}.</p>",
            *(f"<p>Labels: {html.escape(note)}.</p>" for note in first.notes),
            _picture(lambda: draw_class_bars(evaluations), "IoU of each class"),
            _picture(lambda: draw_timeline(evaluations), "mIoU over time"),
            _class_table(evaluations),
            *(f"<p>{html.escape(line)}</p>" for line in _reasons(evaluations)),
        ]
    parts += [_drift_section(subject) for subject in report.subjects]
    if report.ranking:
        rows = [
            [entry.name, f"{entry.error:.2e}", "float32" if entry.name in report.kept else "INT8"]
            for entry in report.ranking[:_WORST_LAYERS]
        ]
        parts += [
            "<h2>Most sensitive layers</h2>",
            "<p>Relative error of the scores when only this layer is INT8.</p>",
            _table(["layer", "error", "kept as"], rows),
        ]
    rows = [[str(key), _listed(value)] for key, value in report.record.items()]
    parts += ["<h2>How it was calibrated</h2>", _table(["", ""], rows)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(report.title)}</title><style>{_STYLE}</style>{body}</html>\n"
    )


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

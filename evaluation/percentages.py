"""Figures human-readable: percentages, and why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from streamseg.evaluation.metrics import Scores

UNDEFINED = "-"
"""Shown for a value that nothing defines, wherever a figure is shown; JSON has null."""


def percent(value: float | None) -> str:
    """A fraction in percent with two digits, or ``UNDEFINED``."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value * 100:.2f}"


def undefined_figures(scores: Scores, class_names: Sequence[str]) -> dict[str, str]:
    """The figures that are not defined, by their names in JSON, each with the reason."""
    reasons = {
        f"per_class.{name}": "the class is neither in the labels nor in the predictions"
        for name, value in zip(class_names, scores.iou, strict=True)
        if math.isnan(value)
    }
    for size, value in scores.mvc.items():
        if math.isnan(value):
            reason = (
                f"no clip that counts has {size} labelled frames in a row with a pixel whose true "
                "class stays the same"
            )
            reasons |= {f"mvc{size}": reason, f"mvc{size}_correct": reason}
    return reasons | _undefined_changes(scores, class_names)


def _undefined_changes(scores: Scores, class_names: Sequence[str]) -> dict[str, str]:
    still = "no pixel has that true class in two labelled frames in a row"
    outline = "no labelled frame has an outline of the class in its label or prediction"
    reasons = {
        f"{key}.{name}": reason
        for key, values, reason in (
            ("flicker_per_class", scores.flicker, still),
            (
                "boundary_per_class",
                scores.boundary if any_defined(scores.boundary) else (),
                outline,
            ),
        )
        for name, value in zip(class_names, values, strict=False)
        if math.isnan(value)
    }
    if math.isnan(scores.flicker_rate):
        reasons["flicker_rate"] = "no two labelled frames follow each other"
    return reasons


def any_defined(values: Sequence[float]) -> bool:
    """Whether any value is not NaN."""
    return not all(math.isnan(value) for value in values)


def explain_undefined(reasons: dict[str, str]) -> list[str]:
    """One sentence for each reason: ``-: per_class.train, per_class.bus: the class is ...``."""
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name.removeprefix("per_class."))
    return [f"{UNDEFINED} for {', '.join(names)}: {why}" for why, names in grouped.items()]


def explain_absent(
    scores: Scores, class_names: Sequence[str], *, vspw_script: bool = False
) -> list[str]:
    """Why classes that only predictions have show no IoU; no line where there are none."""
    absent = [
        name
        for name, value, shown in zip(class_names, scores.iou, scores.shown_iou, strict=True)
        if math.isnan(shown) and not math.isnan(value)
    ]
    if not absent:
        return []
    counted = "does not count in mIoU" if vspw_script else "counts as 0 in mIoU"
    return [
        f"{UNDEFINED} for {', '.join(absent)}: the class is in the predictions and not in the "
        f"labels; it {counted}"
    ]

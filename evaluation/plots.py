"""Plots of an evaluation as PNG files; needs matplotlib (the ``eval`` extra)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import VOID, SegmentationClass
from streamseg.evaluation.drift import Comparison
from streamseg.evaluation.history_lengths import HistoryStudy, name_length
from streamseg.evaluation.percentages import UNDEFINED, percent
from streamseg.evaluation.scores import Evaluation, WorstFrame
from streamseg.files import make_folder, whole_file
from streamseg.installation import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

Image = NDArray[np.uint8]

_SHEET_WIDTH = 320
_CAPTION_HEIGHT = 18
_WRONG, _RIGHT = (220, 30, 30), (230, 230, 230)


def has_matplotlib() -> bool:
    """Whether plots can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise a DatasetError with the install line when matplotlib is missing."""
    if not has_matplotlib():
        raise DatasetError(
            "plots need matplotlib, which is not installed. "
            f"Run: {install_command('eval')}, or leave out the plot folder"
        )


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure that draws to memory, whatever display there is or is not."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        DatasetError: the file cannot be written.
    """
    with whole_file(path, DatasetError) as draft:
        figure.savefig(draft, format="png")


def draw_class_bars(evaluations: Sequence[Evaluation]) -> Figure:
    """IoU of each class as horizontal bars, one colour for each evaluation."""
    names = evaluations[0].class_names
    figure, axes = new_figure(8, 1.2 + 0.24 * len(names) * max(1, 0.6 * len(evaluations)))
    rows = np.arange(len(names))
    thickness = 0.8 / len(evaluations)
    for i, evaluation in enumerate(evaluations):
        iou = np.array(evaluation.scores.shown_iou) * 100
        defined = ~np.isnan(iou)
        label = f"{evaluation.subject}: mIoU {percent(evaluation.scores.miou)} %"
        places = rows + i * thickness
        bars = axes.barh(places[defined], iou[defined], thickness, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
        for place in places[~defined]:
            axes.text(0.5, place, f"{UNDEFINED} (absent)", va="center", fontsize=7, color="0.5")
    axes.set_yticks(rows + 0.4 - thickness / 2, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 105), xlabel="IoU, %")
    figure.legend(loc="outside upper left", fontsize=8, frameon=False)
    return figure


def draw_timeline(evaluations: Sequence[Evaluation]) -> Figure:
    """MIoU of each labelled frame in order, with clip borders."""
    figure, axes = new_figure(10, 3.5)
    for evaluation in evaluations:
        values = [frame.score.miou * 100 for frame in evaluation.timeline]
        axes.plot(values, linewidth=1, label=evaluation.subject)
    timeline = evaluations[0].timeline
    for i in range(1, len(timeline)):
        if timeline[i].clip != timeline[i - 1].clip:
            axes.axvline(i - 0.5, color="0.8", linewidth=0.6, zorder=0)
    axes.set(xlabel="labelled frame", ylabel="mIoU of the frame, %", ylim=(0, 100), xmargin=0.01)
    axes.legend(fontsize=8, frameon=False)
    return figure


def colorize(labels: Image, classes: Sequence[SegmentationClass]) -> Image:
    """(H, W) uint8 labels to (H, W, 3) uint8 RGB; void and none are black."""
    palette = np.zeros((256, 3), np.uint8)
    for index, entry in enumerate(classes):
        palette[index] = entry.color
    return palette[labels]


def _caption(image: Image, text: str) -> Image:
    strip = np.full((_CAPTION_HEIGHT, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def _sheet_row(worst: WorstFrame, classes: Sequence[SegmentationClass]) -> Image:
    wrong = (worst.prediction != worst.label) & (worst.label != VOID)
    errors = np.where(wrong[..., None], np.array(_WRONG), np.array(_RIGHT)).astype(np.uint8)
    score = worst.at.score
    cells = (
        (worst.image, f"{worst.at.clip}/{worst.at.name}"[-48:]),
        (colorize(worst.label, classes), "label"),
        (colorize(worst.prediction, classes), f"prediction, mIoU {score.miou * 100:.1f} %"),
        (errors, f"wrong: {100 - score.pixel_accuracy * 100:.1f} % of pixels"),
    )
    return label_cells(cells, worst.label.shape[0] / worst.label.shape[1])


def label_cells(cells: Sequence[tuple[Image, str]], shape: float) -> Image:
    """Pictures side by side, each with a caption above it.

    Args:
        cells: (H, W, 3) uint8 RGB pictures with their captions; the first is a photograph, the
            others have flat colours.
        shape: height over width of each.
    """
    size = (_SHEET_WIDTH, max(1, round(_SHEET_WIDTH * shape)))
    columns = []
    for i, (cell, text) in enumerate(cells):
        mode = cv2.INTER_NEAREST if i else cv2.INTER_AREA
        small = np.asarray(cv2.resize(cell, size, interpolation=mode), np.uint8)
        columns.append(_caption(small, text))
    return np.hstack(columns)


def draw_worst(evaluation: Evaluation, classes: Sequence[SegmentationClass]) -> Image:
    """Frame, label, prediction and errors of the worst frames: (h, w, 3) uint8 RGB."""
    return np.vstack([_sheet_row(worst, classes) for worst in evaluation.worst])


def write_image(image: Image, path: Path) -> None:
    """Write (H, W, 3) RGB as PNG.

    Raises:
        DatasetError: the file cannot be written.
    """
    encoded, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert encoded
    with whole_file(path, DatasetError) as draft:
        draft.write_bytes(content.tobytes())


def write_plots(
    evaluations: Sequence[Evaluation], classes: Sequence[SegmentationClass], folder: Path
) -> list[Path]:
    """Write ``iou.png``, ``timeline.png`` and ``worst.png`` (of the first); returns their paths."""
    require_matplotlib()
    paths = [folder / name for name in ("iou.png", "timeline.png", "worst.png")]
    make_folder(folder, DatasetError)
    save_figure(draw_class_bars(evaluations), paths[0])
    save_figure(draw_timeline(evaluations), paths[1])
    if not evaluations[0].worst:
        return paths[:2]
    write_image(draw_worst(evaluations[0], classes), paths[2])
    return paths


def draw_history(study: HistoryStudy) -> Figure:
    """Figures against the frames that each output sees, and beside them what each costs."""
    figure, axes = new_figure(10, 4)
    axes.remove()
    left, right = figure.subplots(1, 2)
    names = [name_length(evaluation.history) for evaluation in study.evaluations]
    series = {"mIoU": [evaluation.scores.miou for evaluation in study.evaluations]}
    for n in study.evaluations[0].scores.mvc:
        series[f"mVC{n}"] = [evaluation.scores.mvc[n] for evaluation in study.evaluations]
    for name, values in series.items():
        left.plot(names, np.array(values) * 100, marker="o", linewidth=1, label=name)
    left.set(xlabel="frames that each output sees", ylabel="%")
    left.legend(fontsize=8, frameon=False)
    right.plot(names, [1000 / evaluation.fps for evaluation in study.evaluations], marker="o")
    right.set(xlabel="frames that each output sees", ylabel="ms a scored frame", ylim=(0, None))
    return figure


def draw_comparison(comparison: Comparison) -> Figure:
    """Label agreement above, relative state errors below, over the frames."""
    figure, axes = new_figure(10, 6)
    axes.remove()
    _draw_drift(figure, comparison)
    return figure


def draw_drift_and_frame(comparison: Comparison, frame: Image) -> Figure:
    """As ``draw_comparison``, with the pictures of a frame below."""
    width = 10.0
    height = width * frame.shape[0] / frame.shape[1]
    figure, axes = new_figure(width, 6 + height)
    axes.remove()
    parts = figure.subfigures(2, 1, height_ratios=(6, height))
    above, below = np.asarray(parts).tolist()
    _draw_drift(above, comparison)
    place = below.add_axes((0, 0, 1, 1))
    place.set_axis_off()
    place.imshow(frame, interpolation="none")
    return figure


def _draw_drift(figure: FigureBase, comparison: Comparison) -> None:
    from matplotlib import colormaps

    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    above.plot([frame.agreement * 100 for frame in comparison.frames], linewidth=1)
    above.set(ylabel="equal labels, %", title=f"{comparison.b} against {comparison.a}")
    names = comparison.state_names
    colors = colormaps["viridis"](np.linspace(0, 0.95, max(1, len(names))))
    for color, name in zip(colors, names, strict=False):
        series = np.maximum(comparison.series(name), 1e-12)
        label = f"{name} ({comparison.trend(name)})"
        below.plot(series, linewidth=1, color=color, label=label)
    below.axhline(comparison.threshold, color="0.5", linestyle="--", linewidth=0.8)
    below.set(xlabel="frame", ylabel="relative state error", yscale="log", xmargin=0.01)
    if comparison.state_names:
        below.legend(fontsize=6, ncols=2, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

"""What a run reports: JSON lines, a picture of its curves, a progress bar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamseg.errors import TrainingError
from streamseg.files import whole_file
from streamseg.runtime.sinks import JsonLines

SMOOTHING = 50


class Advance(Protocol):
    """Reports that a step is done."""

    def __call__(self, step: int, text: str, total: int) -> None:
        """``step`` of ``total`` steps are done; ``text`` says how it goes."""


def open_history(path: Path, *, step: int) -> JsonLines:
    """A run's log, to be continued; what was logged after the checkpoint of ``step`` is dropped.

    Raises:
        StreamsegError: it cannot be written.
    """
    kept = [entry for entry in read_history(path) if entry["step"] <= step]
    with whole_file(path, TrainingError) as draft:
        draft.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
    return JsonLines(path)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The log's lines; a last one that was cut off is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError):
            break
    return found


def draw_curves(log: Path, picture: Path) -> None:
    """Draw losses and learning rate over steps; nothing where no step was logged."""
    from matplotlib.figure import Figure

    lines = [line for line in read_history(log) if "loss" in line]
    if not lines:
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps = np.array([line["step"] for line in lines])
    for name in ("loss", "temporal", "auxiliary"):
        values = np.array([line[name] for line in lines])
        (drawn,) = top.plot(steps, values, linewidth=0.5, alpha=0.35)
        top.plot(steps, _smooth(values), color=drawn.get_color(), label=name)
    top.set_ylabel("cross-entropy")
    top.set_yscale("log")
    top.grid(alpha=0.3)
    top.legend()
    bottom.plot(steps, [line["lr"] for line in lines])
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    with whole_file(picture, TrainingError) as draft:
        figure.savefig(draft, dpi=110, format="png")


def _smooth(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
    width = max(1, min(SMOOTHING, len(values) // 4))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


@contextmanager
def step_progress(total: int, *, shown: bool) -> Iterator[Advance]:
    """A bar over steps on stderr; yields a function to call after each step."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=total)

        def advance(step: int, text: str, total: int) -> None:
            bar.update(task, completed=step, description=text, total=total)

        yield advance

"""A progress bar over frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

Progress = Callable[[str], None]


def no_progress(clip: str) -> None:
    """Show nothing."""


def _bar() -> ProgressBar:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    return ProgressBar(*columns, console=Console(stderr=True), transient=True)


def _track(bar: ProgressBar, title: str, total: int | None, *, show_name: bool) -> Progress:
    task = bar.add_task(title, total=total, rate="")

    def advance(name: str) -> None:
        speed = bar.tasks[bar.task_ids.index(task)].speed
        rate = f"{speed:.1f} a second" if speed else ""
        described = name[-24:] if show_name else title
        bar.update(task, advance=1, description=described, rate=rate)

    return advance


@contextmanager
def frame_progress(total: int | None) -> Iterator[Progress]:
    """Show progress on stderr; yields a function to call after each frame with the clip's name."""
    with _bar() as bar:
        yield _track(bar, "frames", total, show_name=True)


@contextmanager
def phase_progress() -> Iterator[Callable[[str, int | None], Progress]]:
    """Show one bar a phase; yields a function that begins a phase of so many steps."""
    with _bar() as bar:

        def begin(phase: str, total: int | None) -> Progress:
            for task in list(bar.task_ids):
                bar.remove_task(task)
            return _track(bar, phase, total, show_name=False)

        yield begin

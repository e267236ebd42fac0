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


@contextmanager
def frame_progress(total: int | None) -> Iterator[Progress]:
    """Show progress on stderr; yields a function to call after each frame with the clip's name."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("frames", total=total, rate="")

        def advance(clip: str) -> None:
            speed = progress.tasks[0].speed
            rate = f"{speed:.1f} fps" if speed else ""
            progress.update(task, advance=1, description=clip[-24:], rate=rate)

        yield advance

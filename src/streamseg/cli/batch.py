"""``streamseg batch``: a whole archive of videos through a bundle, on processes or Ray."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.opening_options import opening_options
from streamseg.cli.policy_options import GAP_RESET, SCENE_CUT

if TYPE_CHECKING:
    from rich.console import Console

    from streamseg.batch.executor import Executor
    from streamseg.batch.jobs import BatchReport
    from streamseg.batch.work import BatchSettings

FOLDER = click.Path(path_type=Path)
LOCAL = "local"


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    help="Video or glob, here or at any fsspec URL; repeatable.",
)
@click.option("-o", "--output", required=True, help="Folder for the results, or fsspec URL.")
@click.option("--labels/--no-labels", default=True, help="Label maps, one 8-bit PNG a frame.")
@click.option("--video/--no-video", default=False, help="Overlay video, H.264.")
@click.option("--workers", type=click.IntRange(min=0), help="Default: cores / threads.")
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="CPU threads of one worker.",
)
@click.option("--ray", is_flag=False, flag_value=LOCAL, help="Run on Ray: an ADDRESS, or here.")
@click.option(
    "--gpus",
    default=0.0,
    type=click.FloatRange(min=0),
    help="GPUs of one worker on Ray, such as 0.5.",
)
@click.option("--shard", default="0/1", show_default=True, help="Part i of N of the videos.")
@click.option("--segment", type=click.IntRange(min=1), help="Split videos into so many frames.")
@click.option("--overlap", type=click.IntRange(min=0), help="Frames that warm a segment up.")
@click.option(
    "--attempts",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Dead workers after which a video is set aside.",
)
@click.option("--retry", is_flag=True, help="Try again what was set aside.")
@click.option("--journal", type=FOLDER, help="Folder of the journal, for an output elsewhere.")
@GAP_RESET
@SCENE_CUT
@opening_options
def command(
    bundle: Path,
    inputs: tuple[str, ...],
    output: str,
    labels: bool,
    video: bool,
    workers: int | None,
    threads: int,
    ray: str | None,
    gpus: float,
    shard: str,
    segment: int | None,
    overlap: int | None,
    attempts: int,
    retry: bool,
    journal: Path | None,
    gap_reset: float,
    scene_cut: float | None,
    letterbox: bool | None,
    backend: str,
    native: bool | None,
    library: Path | None,
    engine: Path | None,
    device: str | None,
    precision: str | None,
) -> int:
    """Segment every video that matches; what is done already is left alone.

    Exits 1 when videos failed; they are listed with their reasons.
    """
    from rich.console import Console

    from streamseg.batch.jobs import Batch, BatchPlace
    from streamseg.batch.tables import import_pyarrow
    from streamseg.batch.work import (
        DEFAULT_OVERLAP,
        BatchSettings,
        fingerprint_bundle,
        parse_shard,
    )
    from streamseg.signals import stop_on_signals

    import_pyarrow()
    fingerprint, manifest = fingerprint_bundle(bundle)
    settings = BatchSettings(
        bundle=str(bundle.resolve()),
        fingerprint=fingerprint,
        backend=backend,
        native=native,
        library=None if library is None else str(library),
        engine=None if engine is None else str(engine.resolve()),
        device=device,
        precision=precision,
        letterbox=letterbox,
        threads=threads,
        gap_reset=None if gap_reset == math.inf else gap_reset,
        scene_cut=scene_cut,
        labels=labels,
        video=video,
        segment=segment,
        overlap=DEFAULT_OVERLAP if overlap is None else overlap,
    )
    part = parse_shard(shard)
    place = BatchPlace.below(output, shard=part, journal=journal, segmented=segment is not None)
    batch = Batch(inputs, place, settings, manifest, shard=part, attempts=attempts, retry=retry)
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        executor = stack.enter_context(open_executor(settings, workers, ray, gpus))
        console.print(f"{len(batch.videos)} videos, {executor.name}", markup=False)
        show = stack.enter_context(Progress(console))
        report = batch.run(executor, stop=request.event, on_progress=show.update)
    print_report(console, report, output)
    if report.stopped and request.signal:
        return 128 + request.signal
    return 1 if report.failures else 0


def open_executor(
    settings: BatchSettings, workers: int | None, ray: str | None, gpus: float
) -> Executor:
    """Ray where it is asked for, else processes; none for 0 workers."""
    if ray is not None:
        from streamseg.batch.cluster import RayExecutor

        address = None if ray == LOCAL else ray
        return RayExecutor(settings, workers, address, gpus=gpus)
    if workers == 0:
        from streamseg.batch.executor import InlineExecutor

        return InlineExecutor(settings)
    from streamseg.batch.local import LocalExecutor

    return LocalExecutor(settings, workers or max(1, (os.cpu_count() or 1) // settings.threads))


class Progress:
    """A bar over videos and segments, with frames a second."""

    def __init__(self, console: Console) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("segmenting"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[frames]} frames, {task.fields[failed]} failed"),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=None, frames=0, failed=0)

    def update(self, report: BatchReport, done: int, total: int) -> None:
        """Show where the batch is."""
        self._bar.update(
            self._task,
            completed=done,
            total=total,
            frames=report.frames,
            failed=len(report.failures),
        )

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_report(console: Console, report: BatchReport, output: str) -> None:
    """Say what was done, and list what was not."""
    console.print(
        f"{output}: {report.finished} videos done ({report.frames} frames), "
        f"{report.skipped} were done before, {len(report.failures)} failed",
        markup=False,
    )
    for name, count in sorted(report.damaged.items()):
        console.print(f"{name}: {count} damaged packets or frames left out", markup=False)
    for name, reason in sorted(report.failures.items()):
        console.print(f"failed: {name}: {reason}", markup=False)
    if report.stopped:
        console.print("interrupted; the same command goes on from here")

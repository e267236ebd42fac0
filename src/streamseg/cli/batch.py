"""``streamseg batch``: a whole archive of videos through a bundle, on processes or Ray."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.batch.work import BatchOptions, BatchRunOptions, BatchSettings
from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE, OutputUrlType
from streamseg.counting import count_of
from streamseg.option_fields import OFF
from streamseg.runtime.opening_options import OpeningOptions
from streamseg.runtime.session.policy import StatePolicy

if TYPE_CHECKING:
    from rich.console import Console

    from streamseg.batch.executor import Executor
    from streamseg.batch.jobs import BatchReport

LOCAL = "local"


@subcommand(
    "batch",
    examples=(
        "batch street/ 'archive/**/*.mp4' -o results",
        "batch street/ 's3://bucket/*.mp4' -o s3://bucket/results --journal journal --ray",
    ),
    removed={
        "--input": "name the videos after the bundle, as in 'streamseg batch BUNDLE INPUT'",
        "--output": "write --out",
        "--labels": "label maps are written unless --no-label-maps is given",
        "--no-labels": "write --no-label-maps",
        "--video": "write --overlay",
        "--no-video": "overlay videos are written only with --overlay",
    },
)
@click.argument("bundle", type=PLACE)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@grouped(
    "-o",
    "--out",
    type=OutputUrlType(),
    required=True,
    help="Folder for the results, or fsspec URL.",
)
@dataclass_options(BatchOptions, "content", "Results")
@grouped(
    "--ray",
    is_flag=False,
    flag_value=LOCAL,
    metavar="[ADDRESS]",
    group="Work",
    help="Run on the Ray cluster at ADDRESS, or start Ray here.",
)
@dataclass_options(BatchRunOptions, "work", "Work")
@dataclass_options(StatePolicy, "policy", "State", only=("gap_reset", "scene_cut"))
@dataclass_options(OpeningOptions, "opening", "Backend", defaults={"threads": 1})
def command(
    bundle: Path,
    inputs: tuple[str, ...],
    out: str,
    content: BatchOptions,
    ray: str | None,
    work: BatchRunOptions,
    policy: StatePolicy,
    opening: OpeningOptions,
) -> int:
    """Segment every video that matches INPUT; finished work is skipped.

    An INPUT is a video or glob, here or at any fsspec URL. Exits 1 if videos failed; they are
    listed with their reasons.
    """
    from rich.console import Console

    from streamseg.batch.jobs import Batch, BatchPlace
    from streamseg.batch.tables import import_pyarrow
    from streamseg.batch.work import fingerprint_bundle, parse_shard
    from streamseg.signals import stop_on_signals

    import_pyarrow()
    with show_phases(f"reading {bundle}"):
        fingerprint, manifest = fingerprint_bundle(bundle)
    library, engine = opening.library, opening.engine
    settings = BatchSettings(
        bundle=str(bundle.resolve()),
        fingerprint=fingerprint,
        backend=opening.backend,
        native=opening.native,
        library=None if library is None else str(library),
        engine=None if engine is None else str(engine.resolve()),
        device=opening.device,
        precision=opening.precision,
        letterbox=opening.letterbox,
        threads=opening.threads or 1,
        gap_reset=None if policy.gap_reset == OFF else policy.gap_reset,
        scene_cut=policy.scene_cut,
        labels=content.label_maps,
        video=content.overlay,
        segment=content.segment,
        overlap=content.overlap,
    )
    part = parse_shard(work.shard)
    cut = content.segment is not None
    with show_phases("listing the videos"):
        place = BatchPlace.below(out, shard=part, journal=work.journal, segmented=cut)
        batch = Batch(
            inputs, place, settings, manifest, shard=part, attempts=work.attempts, retry=work.retry
        )
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        executor = stack.enter_context(open_executor(settings, work, ray))
        console.print(f"{count_of(len(batch.videos), 'video')}, {executor.name}", markup=False)
        show = stack.enter_context(Progress(console))
        report = batch.run(executor, stop=request.event, on_progress=show.update)
    print_report(console, report, out)
    if report.stopped and request.signal:
        return 128 + request.signal
    return 1 if report.failures else 0


def open_executor(settings: BatchSettings, work: BatchRunOptions, ray: str | None) -> Executor:
    """Ray on request, else processes, or this process for 0 workers."""
    if ray is not None:
        from streamseg.batch.cluster import RayExecutor

        address = None if ray == LOCAL else ray
        return RayExecutor(settings, work.workers, address, gpus=work.gpus)
    if work.workers == 0:
        from streamseg.batch.executor import InlineExecutor

        return InlineExecutor(settings)
    from streamseg.batch.local import LocalExecutor

    return LocalExecutor(
        settings, work.workers or max(1, (os.cpu_count() or 1) // settings.threads)
    )


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
        """Show the progress."""
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
    """Print what was done, and list the failures."""
    console.print(
        f"{output}: {count_of(report.finished, 'video')} done ("
        f"{count_of(report.frames, 'frame')}), "
        f"{report.skipped} were done before, {len(report.failures)} failed",
        markup=False,
    )
    for name, count in sorted(report.damaged.items()):
        damaged = count_of(count, "damaged packet or frame", "damaged packets or frames")
        console.print(f"{name}: {damaged} skipped", markup=False)
    for name, reason in sorted(report.failures.items()):
        console.print(f"failed: {name}: {reason}", markup=False)
    if report.stopped:
        console.print("interrupted; run the same command to resume")

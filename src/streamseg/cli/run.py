"""``streamseg run``: bundle and video in; pictures, labels, areas and events out."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.opening_options import opening_options
from streamseg.cli.output_options import OutputArguments, output_options
from streamseg.cli.policy_options import PolicyArguments, policy_options
from streamseg.cli.source_options import SourceArguments, source_options
from streamseg.cli.streams import streams_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from streamseg.runtime.loop.pipeline import RunReport
    from streamseg.runtime.session.session import RunJob, Session
    from streamseg.runtime.video.accuracy import AccuracyMeter

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=FOLDER)
@source_options(multiple=True, required=False)
@streams_option
@output_options
@policy_options
@click.option("--frames", type=click.IntRange(min=1), help="Stop after so many frames.")
@opening_options
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one step.")
def command(
    bundle: Path,
    source: SourceArguments,
    streams: Path | None,
    outputs: OutputArguments,
    state: PolicyArguments,
    frames: int | None,
    letterbox: bool | None,
    backend: str,
    native: bool | None,
    library: Path | None,
    engine: Path | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> int:
    """Segment a video, a folder of images or a live stream with BUNDLE; or many at once.

    Several sources ([NAME=]ADDRESS), or a list of them, take turns. Each writes to places of its
    own: {stream} in --out and the like stands for the name.

    SIGUSR1 resets the state, SIGUSR2 writes it to the file of --snapshot.
    """
    state.check()
    opening = {
        "backend": backend,
        "native": native,
        "library": library,
        "engine": engine,
        "device": device,
        "precision": precision,
        "letterbox": letterbox,
        "threads": threads,
    }
    if streams is not None or len(source.uris) != 1:
        from streamseg.cli.run_fleet import FleetArguments, run_fleet

        return run_fleet(FleetArguments(bundle, source, streams, outputs, state, frames), **opening)
    outputs.require_one()
    from rich.console import Console

    from streamseg.runtime.bundle.bundle import read_manifest
    from streamseg.runtime.loop.member import MemberOptions
    from streamseg.runtime.loop.pipeline import run_stream
    from streamseg.runtime.loop.writing import no_inspection
    from streamseg.runtime.session.event_log import EventLog
    from streamseg.runtime.sources import open_source, require_kept
    from streamseg.runtime.stream import open_stream
    from streamseg.runtime.video.accuracy import AccuracyMeter
    from streamseg.signals import call_on_signals, stop_on_signals

    require_kept(source.uris[0], [*outputs.places, *state.places])
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        sessions: list[Session] = []  # none yet: signals that come earlier ask for nothing
        stack.enter_context(
            call_on_signals(
                {
                    signal.SIGUSR1: lambda: [s.request_reset("signal SIGUSR1") for s in sessions],
                    signal.SIGUSR2: lambda: [s.request_snapshot() for s in sessions],
                }
            )
        )
        log = EventLog(lambda line: console.print(line, markup=False), state.events)
        stack.callback(log.close)
        opened = stack.enter_context(
            open_source(source.uris[0], source.options(), on_event=log, stop=request.event)
        )
        sinks = outputs.open(stack, opened, lambda: read_manifest(bundle), request.event.set)
        stream = stack.enter_context(
            open_stream(
                bundle,
                backend=backend,
                native=native,
                library=library,
                letterbox=letterbox,
                reuse=True,
                threads=threads,
                engine=engine,
                device=device,
                precision=precision,
            )
        )
        height, width = opened.size
        detail = f", {opened.detail}" if opened.detail else ""
        console.print(
            f"{opened.name}: {height}x{width}, {opened.fps:.4g} fps{detail}", markup=False
        )
        console.print(stream.execution, markup=False)
        meter = (
            AccuracyMeter(stream.manifest.classes)
            if AccuracyMeter.fits(stream.manifest.classes)
            else None
        )
        overlay = outputs.overlay(stream.manifest)
        expected = min((n for n in (opened.frame_count, frames) if n), default=None)
        progress = stack.enter_context(make_progress(console, expected))
        task = progress.task_ids[0]

        def make_session(run_job: RunJob) -> Session:
            session = state.session(stream, opened.name, log, run_job)
            sessions.append(session)
            return session

        report = run_stream(
            make_session,
            opened,
            overlay,
            sinks,
            stop=request.event,
            on_frame=lambda count: progress.update(task, completed=count),
            when_behind=source.when_behind,
            max_latency=source.max_latency,
            on_event=log,
            options=MemberOptions(limit=frames),
            inspect=no_inspection if meter is None else meter.inspect,
        )
        progress.stop()
        print_report(console, report, sessions[0], meter, request.signal)
    return 128 + request.signal if report.stopped and request.signal else 0


def make_progress(console: Console, expected: int | None) -> Progress:
    """A progress bar with one task, in frames and frames a second."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Frames a second over the last moments."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0.0:5.1f} fps")

    progress = Progress(
        TextColumn("segmenting"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    progress.add_task("segmenting", total=expected)
    return progress


def print_report(
    console: Console,
    report: RunReport,
    session: Session,
    meter: AccuracyMeter | None,
    signal_number: int | None,
) -> None:
    """Print the times of the stages and what was written."""
    from rich.table import Table

    table = Table(title="milliseconds a frame", title_justify="left")
    for name in ("stage", "median", "p95"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, seconds in report.times.items():
        table.add_row(stage, f"{seconds.median * 1e3:.2f}", f"{seconds.p95 * 1e3:.2f}")
    console.print(table)
    if report.stopped:
        cause = signal.Signals(signal_number).name if signal_number else "request"
        console.print(f"interrupted by {cause} after {report.frames} frames")
    console.print(
        f"{report.frames} frames in {report.seconds:.2f} s: {report.fps:.1f} fps "
        "(decode and encode run beside the step)"
    )
    for sentence in count_sentences(report):
        console.print(sentence)
    if meter is not None and meter.frames:
        console.print(meter.sentence)
    if session.resets:
        causes = ", ".join(f"{count} by {cause}" for cause, count in session.resets.items())
        console.print(f"state reset {session.resets.total()} times: {causes}")
    for sentence in report.outputs:
        console.print(sentence, markup=False)


def count_sentences(report: RunReport) -> list[str]:
    """One sentence for every count of the run that is not zero."""
    sentences = {
        "{} frames dropped: newer ones were there before their turn": report.dropped,
        "{} frames passed over to keep to the rate asked for": report.passed_over,
        "{} damaged packets or frames of the source left out": report.corrupt,
        "source lost and back {} times": report.reconnects,
        "{} label maps later than the limit": report.late,
    }
    return [sentence.format(count) for sentence, count in sentences.items() if count]

"""``streamseg run``: bundle and video in; pictures, labels, areas and events out."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import source_of
from streamseg.cli.run_fleet import FleetArguments, run_fleet
from streamseg.cli.streams import StreamArguments, stream_options
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.cli.viewing import Viewing
from streamseg.counting import count_of
from streamseg.errors import StreamsegError
from streamseg.files import STDOUT, check_place
from streamseg.runtime.opening_options import OpeningOptions
from streamseg.runtime.sinks.outputs import OutputOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from streamseg.runtime.loop.pipeline import RunReport
    from streamseg.runtime.session.events import EventHandler
    from streamseg.runtime.session.session import RunJob, Session
    from streamseg.runtime.stream import Stream
    from streamseg.runtime.video.accuracy import AccuracyMeter


@subcommand(
    "run",
    examples=(
        "run street/ clip.mp4 -o overlay.mp4",
        "run street/ rtsp://camera/live --labels labels/ --snapshot state --resume state",
    ),
    removed={
        **source_of("run"),
        "--window": "write --show",
        "--max-latency-ms": "write --max-latency, in seconds",
    },
)
@click.argument("bundle", type=PLACE)
@stream_options
@dataclass_options(OutputOptions, "outputs", "Output")
@grouped("--frames", type=click.IntRange(min=1), metavar="N", help="Number of frames to process.")
@dataclass_options(OpeningOptions, "opening", "Backend")
def command(
    bundle: Path,
    streams: StreamArguments,
    events: Path | None,
    outputs: OutputOptions,
    frames: int | None,
    opening: OpeningOptions,
) -> int:
    """Segment each SOURCE with BUNDLE.

    A SOURCE is a video file, a folder of images, a camera number, rtsp://, http://, udp://,
    gst:PIPELINE or synthetic:SCENE. Options of one source alone follow a '#', as in
    clip.mp4#start=5&loop.

    Several SOURCEs, each [NAME=]ADDRESS, or a list of them take turns. Each writes its own files:
    {stream} in an output path stands for the name.

    SIGUSR1 resets the state. SIGUSR2 writes the snapshot.
    """
    if streams.listed is not None or len(streams.sources) != 1:
        return run_fleet(FleetArguments(bundle, streams, events, outputs, frames, opening))
    outputs.require_one(published=streams.publishing.mqtt is not None)
    viewing = Viewing.choose(outputs)
    outputs = viewing.outputs
    (address,) = streams.sources
    from rich.console import Console

    from streamseg.runtime.bundle.bundle import read_manifest
    from streamseg.runtime.loop.member import MemberOptions
    from streamseg.runtime.loop.pipeline import run_stream
    from streamseg.runtime.loop.writing import no_inspection
    from streamseg.runtime.session.event_log import EventLog
    from streamseg.runtime.sinks.mqtt import MqttAreaSink
    from streamseg.runtime.sources import open_source, require_kept
    from streamseg.runtime.stream import open_stream
    from streamseg.runtime.video.accuracy import AccuracyMeter
    from streamseg.signals import call_on_signals, stop_on_signals

    places = (*outputs.places.values(), events, streams.plan.snapshot)
    require_kept(address, [place for place in places if place is not None])
    to_stdout = outputs.to_stdout or events == STDOUT
    console = Console(highlight=False, soft_wrap=True, stderr=to_stdout)

    def say(line: str) -> None:
        console.print(line, markup=False)

    reading = replace(streams.reading, realtime=streams.reading.realtime or viewing.alone)
    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        sessions: list[Session] = []  # empty until the first frame: earlier signals do nothing
        stack.enter_context(
            call_on_signals(
                {
                    signal.SIGUSR1: lambda: [s.request_reset("signal SIGUSR1") for s in sessions],
                    signal.SIGUSR2: lambda: [s.request_snapshot() for s in sessions],
                }
            )
        )
        events_log = EventLog(say, events)
        stack.callback(events_log.close)
        viewing.publisher = publisher = streams.publish(stack)
        log = viewing.report_to(events_log)
        with show_phases(f"opening {bundle}"):
            opened = stack.enter_context(
                open_source(address, reading, on_event=log, stop=request.event)
            )
            sinks = outputs.open(
                stack,
                opened,
                lambda: read_manifest(bundle),
                request.event.set,
                frames=frames,
            )
            stream = stack.enter_context(open_stream(bundle, reuse=True, **opening.arguments))
            if publisher is not None:
                sinks.append(MqttAreaSink(publisher, opened.name, stream.manifest.classes))
        height, width = opened.size
        detail = f", {opened.detail}" if opened.detail else ""
        say(f"{opened.name}: {height}x{width}, {opened.fps:.4g} fps{detail}")
        say(stream.execution)
        viewing.open(stack, stream, say, counts=True)
        meter = (
            AccuracyMeter(stream.manifest.classes)
            if AccuracyMeter.fits(stream.manifest.classes)
            else None
        )
        overlay = outputs.overlay(stream.manifest)
        expected = min((n for n in (opened.frame_count, frames) if n), default=None)
        progress = stack.enter_context(make_progress(console, expected))
        task = progress.task_ids[0]

        def start_session(run_job: RunJob) -> Session:
            session = make_session(stream, streams, opened.name, log, run_job)
            sessions.append(session)
            return session

        report = run_stream(
            start_session,
            opened,
            overlay,
            sinks,
            stop=request.event,
            on_frame=lambda count: progress.update(task, completed=count),
            pacing=streams.pacing,
            on_event=log,
            options=MemberOptions(limit=frames),
            inspect=no_inspection if meter is None else meter.inspect,
            view=viewing.page,
        )
        progress.stop()
        print_report(console, report, sessions[0], meter, request.signal)
    return 128 + request.signal if report.stopped and request.signal else 0


def make_session(
    stream: Stream, streams: StreamArguments, name: str, on_event: EventHandler, run_job: RunJob
) -> Session:
    """A session of ``stream``, resumed from the snapshot if there is one.

    Raises:
        StreamsegError: the snapshot cannot be written.
        StateMismatch: the snapshot to resume from is missing, damaged, or of another bundle.
    """
    from streamseg.runtime.session.session import Session

    plan = streams.plan
    if plan.snapshot is not None:
        check_place(plan.snapshot, StreamsegError)
    session = Session(
        stream,
        streams.state_policy,
        name=name,
        on_event=on_event,
        snapshot=plan.snapshot,
        snapshot_every=plan.snapshot_every,
        run_job=run_job,
    )
    if plan.found is not None:
        session.load(plan.found)
    return session


def make_progress(console: Console, expected: int | None) -> Progress:
    """A progress bar on standard error with one task, in frames and frames per second."""
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
        console.print(f"interrupted by {cause} after {count_of(report.frames, 'frame')}")
    console.print(
        f"{count_of(report.frames, 'frame')} in {report.seconds:.2f} s: {report.fps:.1f} fps "
        "(decode, resize and encode run beside the step)"
    )
    for sentence in count_sentences(report):
        console.print(sentence)
    if meter is not None and meter.frames:
        console.print(meter.sentence)
    if session.resets:
        causes = ", ".join(f"{count} by {cause}" for cause, count in session.resets.items())
        console.print(f"state reset {count_of(session.resets.total(), 'time')}: {causes}")
    for sentence in report.outputs:
        console.print(sentence, markup=False)


def count_sentences(report: RunReport) -> list[str]:
    """One sentence for every count of the run that is not zero."""
    damaged = count_of(report.corrupt, "damaged packet or frame", "damaged packets or frames")
    sentences = {
        f"{count_of(report.dropped, 'frame')} dropped in favour of newer ones": report.dropped,
        f"{count_of(report.passed_over, 'frame')} skipped to keep the requested rate": (
            report.passed_over
        ),
        f"{damaged} of the source skipped": report.corrupt,
        f"source reconnected {count_of(report.reconnects, 'time')}": report.reconnects,
        f"{count_of(report.late, 'label map')} later than --max-latency": report.late,
    }
    return [sentence for sentence, count in sentences.items() if count]

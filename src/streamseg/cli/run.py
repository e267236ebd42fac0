"""``streamseg run``: bundle and video in, overlay video, label maps and contact sheet out."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.source_options import SourceArguments, source_options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from streamseg.runtime.pipeline import RunReport
    from streamseg.runtime.sinks import Sink
    from streamseg.runtime.sources import Source

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=FOLDER)
@source_options()
@click.option("--out", type=FOLDER, help="Overlay video, H.264 (.mp4, .mov, .mkv).")
@click.option("--labels", type=FOLDER, help="Folder for label maps, one 8-bit PNG a frame.")
@click.option("--sheet", type=FOLDER, help="Contact sheet of the stream (.png).")
@click.option("--frames", type=click.IntRange(min=1), help="Stop after so many frames.")
@click.option("--letterbox/--stretch", default=None, help="Keep the aspect of frames, or not.")
@click.option("--opacity", default=0.5, show_default=True, type=click.FloatRange(0, 1))
@click.option("--legend/--no-legend", default=True, help="Class names in the picture.")
@click.option("--backend", default="auto", show_default=True, help="What runs the graphs.")
@click.option("--native/--no-native", default=None, help="Demand or refuse native operators.")
@click.option("--library", type=FOLDER, help="Native library to use, an absolute path.")
@click.option("--engine", type=FOLDER, help="TensorRT engine, or folder of several.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one step.")
def command(
    bundle: Path,
    source: SourceArguments,
    out: Path | None,
    labels: Path | None,
    sheet: Path | None,
    frames: int | None,
    letterbox: bool | None,
    opacity: float,
    legend: bool,
    backend: str,
    native: bool | None,
    library: Path | None,
    engine: Path | None,
    threads: int | None,
) -> int:
    """Segment a video, a folder of images or a camera with BUNDLE."""
    if out is None and labels is None and sheet is None:
        raise click.UsageError("nothing to write: give --out, --labels or --sheet")
    from rich.console import Console

    from streamseg.runtime.overlay import Overlay
    from streamseg.runtime.pipeline import run_stream
    from streamseg.runtime.signals import stop_on_signals
    from streamseg.runtime.sources import open_source
    from streamseg.runtime.stream import open_stream

    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        opened = stack.enter_context(
            open_source(source.uris[0], source.options(), stop=request.event)
        )
        sinks = make_sinks(stack, opened, out=out, labels=labels, sheet=sheet)
        stream = stack.enter_context(
            open_stream(
                bundle,
                backend=backend,
                native=native,
                library=library,
                letterbox=letterbox,
                threads=threads,
                engine=engine,
            )
        )
        height, width = opened.size
        detail = f", {opened.detail}" if opened.detail else ""
        console.print(
            f"{opened.name}: {height}x{width}, {opened.fps:.4g} fps{detail}", markup=False
        )
        console.print(stream.execution, markup=False)
        overlay = Overlay(stream.manifest.classes, opacity=opacity, legend=legend)
        expected = min((n for n in (opened.frame_count, frames) if n), default=None)
        progress = stack.enter_context(make_progress(console, expected))
        task = progress.task_ids[0]
        report = run_stream(
            stream,
            opened,
            overlay,
            sinks,
            limit=frames,
            stop=request.event,
            on_frame=lambda count: progress.update(task, completed=count),
            when_behind=source.when_behind,
            max_latency=source.max_latency,
        )
        progress.stop()
        print_report(console, report, request.signal)
    return 128 + request.signal if report.stopped and request.signal else 0


def make_sinks(
    stack: ExitStack, source: Source, *, out: Path | None, labels: Path | None, sheet: Path | None
) -> list[Sink]:
    """Open the outputs; what is not finished when ``stack`` closes is removed."""
    from streamseg.runtime.sinks import LabelSink, SheetSink, VideoSink

    sinks: list[Sink] = []

    def add(sink: Sink) -> None:
        stack.callback(sink.discard)
        sinks.append(sink)

    if out is not None:
        add(VideoSink(out, source.fps))
    if labels is not None:
        add(LabelSink(labels))
    if sheet is not None:
        add(SheetSink(sheet))
    return sinks


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


def print_report(console: Console, report: RunReport, signal_number: int | None) -> None:
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

"""``streamseg bench``: how fast a bundle runs here, with state, by graph of its schedule."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamseg._version import __version__
from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.results import json_option, open_console, write_result
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.errors import StreamsegError
from streamseg.redaction import printable
from streamseg.runtime.opening_options import OpeningOptions
from streamseg.runtime.timing import TimingOptions

if TYPE_CHECKING:
    from rich.console import Console

    from streamseg.runtime.host import OtherWork
    from streamseg.runtime.stream import Stream
    from streamseg.runtime.timing import StreamTiming

DRAWN = "synthetic:street"


@subcommand(
    "bench",
    examples=(
        "bench street/ clip.mp4",
        "bench street/ --backend openvino --json bench.json",
    ),
)
@click.argument("bundle", type=PLACE)
@click.argument("source", required=False)
@grouped("--frames", type=click.IntRange(min=1), metavar="N", help="Number of frames to process.")
@json_option
@dataclass_options(TimingOptions, "timing", "Measurement")
@dataclass_options(OpeningOptions, "opening", "Backend")
def command(
    bundle: Path,
    source: str | None,
    frames: int | None,
    json_path: Path | None,
    timing: TimingOptions,
    opening: OpeningOptions,
) -> None:
    """Time BUNDLE on the frames of SOURCE, with state.

    SOURCE is a video, a folder of images, or what else 'streamseg run' takes; without it, a drawn
    street of the size of the model. Its first frames are decoded before, and played in a loop
    without a reset. A time is that of a whole step, from the frame to labels of its size.
    """
    from streamseg.runtime.host import LoadMeter, current_memory
    from streamseg.runtime.sources import open_source, redact
    from streamseg.runtime.stream import open_stream
    from streamseg.runtime.timing import hold_frames, time_stream

    if opening.parallel not in (None, 1):
        raise StreamsegError("bench times the steps of one stream; leave --parallel out")
    before = current_memory()
    with (
        show_phases(f"opening {bundle}") as phase,
        open_stream(bundle, reuse=True, **opening.arguments) as stream,
    ):
        spec = stream.manifest.frame
        address = source or f"{DRAWN}?size={spec.height}x{spec.width}"
        phase(f"reading {redact(address)}")
        opened = current_memory()
        with open_source(address) as clip:
            held, name = hold_frames(clip), clip.name
        phase("timing")
        meter = LoadMeter()
        times = time_stream(stream, held, seconds=timing.seconds, limit=frames)
        record = {
            **describe_subject(stream, bundle),
            "source": name,
            "source_size": list(held[0].shape[:2]),
            "source_frames": len(held),
            **describe_times(times),
            **describe_surroundings(meter.read()),
            "memory": describe_memory(stream, before, opened),
        }
    print_record(record, open_console(json_path))
    write_result(record, json_path)


def describe_subject(stream: Stream, bundle: Path) -> dict[str, Any]:
    """Which network ran, and on what."""
    manifest = stream.manifest
    return {
        "bundle": bundle.name or str(bundle),
        "identity": stream.identity,
        "model": dict(manifest.model),
        "precision": manifest.precision_name,
        "classes": len(manifest.classes),
        "size": [manifest.frame.height, manifest.frame.width],
        "execution": stream.execution,
    }


def describe_times(times: StreamTiming) -> dict[str, Any]:
    """Milliseconds of all steps and of each graph, and frames a second."""
    return {
        "frames": times.steps.frames,
        "warm_up": times.warm_up,
        "median_ms": times.steps.median,
        "p95_ms": times.steps.p95,
        "mean_ms": times.steps.mean,
        "preprocess_ms": times.preprocess,
        "fps": times.fps,
        "graphs": {name: asdict(entry) for name, entry in times.graphs.items()},
    }


def describe_surroundings(work: OtherWork) -> dict[str, Any]:
    """The machine, what else it did, and the versions of what ran."""
    from streamseg.doctor import board_state, describe_versions
    from streamseg.runtime.host import processor_name, read_clocks

    return {
        "load_note": work.note,
        "other_cores_busy": work.cores,
        "machine": {
            "processor": processor_name(),
            "processors": work.available,
            "usable": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
            **read_clocks(),
            **board_state(),
        },
        "versions": [f"streamseg {__version__}", *describe_versions()],
    }


def describe_memory(stream: Stream, before: int | None, opened: int | None) -> dict[str, Any]:
    """Bytes; null where the machine does not say."""
    from streamseg.doctor import gpu_memory
    from streamseg.runtime.bundle.state import state_bytes
    from streamseg.runtime.host import peak_memory

    grown = None if before is None or opened is None else opened - before
    return {
        "process_peak": peak_memory(),
        "opening": grown,
        "state": state_bytes(stream.manifest.state),
        "gpu": gpu_memory(os.getpid()),
    }


def print_record(record: dict[str, Any], console: Console) -> None:
    """Print the measurement as a table with its surroundings."""
    from rich.table import Table
    from rich.text import Text

    def say(line: str) -> None:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    height, width = record["size"]
    say(f"{record['bundle']} at {height}x{width}, {record['precision']}, on {record['execution']}")
    say(f"frames of {record['source']}: {record['source_frames']}, in a loop")
    table = Table(title="milliseconds a frame, with state", title_justify="left")
    for name in ("graph", "frames", "median", "p95", "mean"):
        table.add_column(name, justify="left" if name == "graph" else "right")
    for name, entry in record["graphs"].items():
        values = (f"{entry[key]:.2f}" for key in ("median", "p95", "mean"))
        table.add_row(Text(printable(name)), str(entry["frames"]), *values)
    if len(record["graphs"]) > 1:
        values = (f"{record[key]:.2f}" for key in ("median_ms", "p95_ms", "mean_ms"))
        table.add_row("all", str(record["frames"]), *values)
    console.print(table)
    say(f"{record['fps']:.1f} frames a second; of a step, {record['preprocess_ms']:.2f} ms resize")
    memory = {key: value for key, value in record["memory"].items() if value is not None}
    say("memory, MB: " + ", ".join(f"{name} {value / 1e6:.1f}" for name, value in memory.items()))
    machine = record["machine"]
    say(", ".join(f"{name} {value}" for name, value in machine.items()))
    if record["load_note"]:
        say(f"note: {record['load_note']}")

"""``streamseg compare``: how two models, backends or precisions drift apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import SETTINGS
from streamseg.cli.results import json_option, open_console, write_result
from streamseg.cli.setting_options import setting_options
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import OutputType
from streamseg.counting import count_of
from streamseg.destinations import PICTURE
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.difference_pictures import draw_difference
from streamseg.evaluation.drift import Comparison, ComparisonOptions, compare
from streamseg.evaluation.plots import draw_drift_and_frame, require_matplotlib, save_figure
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_pair, require_subjects
from streamseg.redaction import printable
from streamseg.runtime.bundle.claims import describe_assumed

SHOWN_PAIRS = 3  # of confused classes


def print_comparison(result: Comparison, console: Console) -> None:
    """Print the summary, and a row for each state tensor."""
    agreement = [frame.agreement for frame in result.frames]
    console.print(f"A: {result.a}\nB: {result.b}\n{count_of(len(result.frames), 'frame')}")
    console.print(f"classes matched {result.classes_matched}")
    for side, assumed in zip("AB", result.assumed, strict=True):
        for line in describe_assumed(assumed):
            console.print(f"{side}: {line}")
    console.print(
        f"equal labels: {np.mean(agreement):.4%} on average, {min(agreement):.4%} at worst "
        f"(frame {result.worst_frame}), {agreement[-1]:.4%} on the last frame"
    )
    for line in describe_worst(result):
        console.print(line, highlight=False)
    logits = [frame.logits for frame in result.frames if frame.logits is not None]
    if logits:
        console.print(f"logits: within {max(logits):.3g}")
    if not result.state_names:
        return
    table = Table("state", "first", "median", "last", "worst", "trend")
    for column in table.columns[1:5]:
        column.justify = "right"
    for name in result.state_names:
        series = result.series(name)
        values = (series[0], float(np.median(series)), series[-1], series.max())
        table.add_row(name, *(f"{value:.2e}" for value in values), result.trend(name))
    console.print(table)
    crossing = result.first_crossing
    if crossing is None:
        console.print(f"no state error above {result.threshold:g}; over the run: {result.trend()}")
    else:
        console.print(
            f"first above {result.threshold:g}: {crossing.name} at frame {crossing.frame} "
            f"({crossing.error:.2e}); over the run the error {result.trend()}"
        )


def describe_worst(result: Comparison) -> Iterator[str]:
    """Which classes the labels of the worst frame confuse, the most frequent first."""
    worst = result.worst
    names = {entry.id: entry.name for entry in result.classes}
    pairs, counts = np.unique(
        np.stack([worst.a, worst.b])[:, worst.a != worst.b], axis=1, return_counts=True
    )
    for place in np.argsort(-counts, kind="stable")[:SHOWN_PAIRS]:
        first, second = (printable(names.get(int(label), "none")) for label in pairs[:, place])
        share = counts[place] / worst.a.size
        yield f"  frame {worst.index}: {first} in A is {second} in B: {share:.3%} of the pixels"


@subcommand(
    "compare",
    examples=(
        "compare street/ street-int8/ clip.mp4",
        "compare street/@no-native street/@native synthetic:street --json drift.json",
    ),
    removed={
        **SETTINGS,
        "--source": "name the source after the models, as in 'streamseg compare A B SOURCE'",
    },
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("source")
@json_option
@grouped(
    "--plot", type=OutputType(PICTURE), help="Write a PNG of the differences, with the worst frame."
)
@dataclass_options(ComparisonOptions, "comparison", "Comparison")
@dataclass_options(SegmenterOptions, "options", "Checkpoints", only=("size",))
@setting_options("Checkpoints")
def command(
    a: str,
    b: str,
    source: str,
    json_path: Path | None,
    plot: Path | None,
    comparison: ComparisonOptions,
    options: SegmenterOptions,
    settings: dict[str, str],
) -> None:
    """Run A and B on the frames of SOURCE and compare labels, logits and state.

    A and B are bundles or checkpoints. A bundle may be followed by how to run it: street/@native,
    street/@no-native, or a backend such as street/@onnxruntime. SOURCE is a video, a folder of
    frames or synthetic:SCENE; a clip with fewer frames than --frames is played again.

    State errors are relative: |b - a| / |a|.
    """
    if plot is not None:
        require_matplotlib()
    options = replace(options, settings=settings)
    require_subjects([a, b], options)
    drawn = source.startswith("synthetic:")
    clip = open_dataset(source if drawn else f"footage:{source}", labels=False).clips[0]
    with ExitStack() as stack:
        with show_phases(f"opening {a} and {b}"):
            first, second = open_pair(a, b, options, stack)
        with frame_progress(comparison.frames or clip.frame_count) as advance:
            result = compare(first, second, clip, comparison, progress=advance)
    print_comparison(result, open_console(json_path))
    write_result(result.as_json(), json_path)
    if plot is not None:
        worst = draw_difference(result.worst, result)
        save_figure(draw_drift_and_frame(result, worst), plot)

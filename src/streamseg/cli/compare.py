"""``streamseg compare``: how two models, backends or precisions drift apart."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from streamseg.cli.options import OUTPUT_FILE, SIZE, classes_by_option
from streamseg.cli.setting_options import setting_options
from streamseg.evaluation.class_matching import ClassesBy
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.drift import DEFAULT_THRESHOLD, Comparison, compare
from streamseg.evaluation.plots import draw_comparison, require_matplotlib, save_figure
from streamseg.evaluation.progress import frame_progress
from streamseg.evaluation.scores import write_json
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_pair
from streamseg.runtime.bundle.claims import describe_assumed


def print_comparison(result: Comparison, console: Console) -> None:
    """Print the summary, and a row for each state tensor."""
    agreement = [frame.agreement for frame in result.frames]
    console.print(f"A: {result.a}\nB: {result.b}\n{len(result.frames)} frames")
    console.print(f"classes matched {result.classes_matched}")
    for side, assumed in zip("AB", result.assumed, strict=True):
        for line in describe_assumed(assumed):
            console.print(f"{side}: {line}")
    console.print(
        f"equal labels: {np.mean(agreement):.4%} on average, {min(agreement):.4%} at worst, "
        f"{agreement[-1]:.4%} on the last frame"
    )
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


@click.command("compare")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--source", required=True, help="Video, folder of frames, or synthetic:SCENE.")
@click.option("--frames", type=click.IntRange(min=1), help="Play the clip again up to this many.")
@click.option("--threshold", default=DEFAULT_THRESHOLD, show_default=True, help="State error.")
@click.option("--size", type=SIZE, help="Frame size HxW of a checkpoint.")
@setting_options
@classes_by_option
@click.option("--json", "json_path", type=OUTPUT_FILE, help="Write results here.")
@click.option("--plot", type=OUTPUT_FILE, help="Write a PNG here.")
def command(
    a: str,
    b: str,
    source: str,
    frames: int | None,
    threshold: float,
    size: tuple[int, int] | None,
    settings: dict[str, str],
    classes_by: ClassesBy,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Run A and B over the same frames and measure labels, logits and state.

    A and B are bundles or checkpoints. A bundle may say how it is run: street/@lowered,
    street/@native, street/@onnxruntime. State errors are relative: |b - a| / |a|.
    """
    if plot is not None:
        require_matplotlib()
    drawn = source.startswith("synthetic:")
    clip = open_dataset(source if drawn else f"footage:{source}", labels=False).clips[0]
    options = SegmenterOptions(size=size, settings=settings)
    with ExitStack() as stack:
        first, second = open_pair(a, b, options, stack)
        with frame_progress(frames or clip.frame_count) as advance:
            result = compare(
                first,
                second,
                clip,
                frames=frames,
                threshold=threshold,
                classes_by=classes_by,
                progress=advance,
            )
    print_comparison(result, Console())
    if json_path is not None:
        write_json(result.as_json(), json_path)
    if plot is not None:
        save_figure(draw_comparison(result), plot)

"""``streamseg calibrate``: a float32 bundle in, an INT8 bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from streamseg.calibration.histograms import METHODS, Method
from streamseg.cli.options import classes_by_option
from streamseg.errors import DatasetError, ExportError
from streamseg.evaluation.class_matching import ClassesBy
from streamseg.evaluation.datasets import DATASETS, open_dataset
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.progress import phase_progress
from streamseg.runtime.bundle.claims import describe_parity

if TYPE_CHECKING:
    from streamseg.calibration.calibrating import Calibrated

ONNX_HINT = "calibration needs onnx ({}). Run: pip install 'streamseg[export]'"
_EXISTING = click.Path(path_type=Path)


def print_calibrated(result: Calibrated, console: Console) -> None:
    """Print what was written and what it costs."""
    from streamseg.calibration.observation import RANGES
    from streamseg.calibration.quantisation import REPORT

    console.print(
        f"{result.path}: {len(result.layers)} layers INT8, {len(result.kept)} kept in float32; "
        f"graphs {result.bytes / 1e6:.1f} MB, {result.float_bytes / result.bytes:.2f}x smaller"
    )
    console.print(f"  {describe_parity(result.parity)}", highlight=False)
    for entry in result.ranking[:10]:
        kept = " (kept)" if entry.name in result.kept else ""
        console.print(f"  {entry.error:.2e}  {entry.name}{kept}", highlight=False)
    console.print(f"ranges: {result.path / RANGES}")
    if result.report is not None:
        for subject in result.report.subjects:
            parts = [subject.name]
            if subject.evaluation is not None:
                scores = subject.evaluation.scores
                parts.append(f"mIoU {percent(scores.miou)} %, mVC8 {percent(scores.mvc[8])} %")
            if subject.step_ms is not None:
                parts.append(f"{subject.step_ms:.1f} ms a step")
            if subject.comparison is not None:
                last = subject.comparison.frames[-1]
                trend = subject.comparison.trend()
                parts.append(
                    f"{last.agreement:.2%} of labels equal on the last frame, "
                    f"state error {last.worst_state:.1e} ({trend})"
                )
            console.print("  " + "; ".join(parts), highlight=False)
        console.print(f"report: {result.path / REPORT}")


@click.command("calibrate")
@click.argument("bundle", type=_EXISTING)
@click.option("-o", "--out", required=True, type=_EXISTING, help="INT8 bundle to write.")
@click.option("--dataset", metavar="NAME:ROOT", help=f"Clips; one of {', '.join(DATASETS)}.")
@click.option("--split", default="train", show_default=True, help="train, val or test.")
@click.option("--method", type=click.Choice(METHODS), default="mse", show_default=True)
@click.option("--clips", default=8, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--frames", default=16, show_default=True, type=click.IntRange(min=1), help="Of each clip."
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of clips.")
@click.option("--shuffled", is_flag=True, help="Frames as unrelated images, for comparison only.")
@click.option("--no-smoothing", is_flag=True, help="Leave outliers where they are.")
@click.option(
    "--keep-float", default=0, type=click.IntRange(min=0), help="Rank layers; keep the worst N."
)
@click.option("--ranges", type=_EXISTING, help="Reuse those of a calibrated bundle; no replay.")
@click.option("--test", metavar="NAME:ROOT", help="Labelled dataset for the report's accuracy.")
@click.option("--test-split", default="val", show_default=True)
@click.option("--also", multiple=True, type=_EXISTING, help="Another bundle for the report.")
@classes_by_option
@click.option("--drift-frames", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--native/--no-native", default=None, help="Insist on native operators, or on none.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a step.")
@click.option("--no-report", is_flag=True, help="Write the bundle only.")
def command(
    bundle: Path,
    out: Path,
    dataset: str | None,
    split: str,
    method: Method,
    clips: int,
    frames: int,
    seed: int,
    shuffled: bool,
    no_smoothing: bool,
    keep_float: int,
    ranges: Path | None,
    test: str | None,
    test_split: str,
    also: tuple[Path, ...],
    classes_by: ClassesBy,
    drift_frames: int,
    native: bool | None,
    threads: int | None,
    no_report: bool,
) -> None:
    """Turn BUNDLE (float32) into an INT8 bundle.

    Clips are replayed in order, with state, which is reset where a clip begins. The result holds
    the ranges that were measured, and a report of what INT8 costs.
    """
    if dataset is None and ranges is None:
        raise DatasetError(
            "nothing to calibrate on: give --dataset NAME:ROOT (footage:PATH takes any videos or "
            "frames), or --ranges of an earlier calibration"
        )
    try:
        from streamseg.calibration.calibrating import CalibrationOptions, calibrate
        from streamseg.calibration.observation import read_ranges
    except ImportError as error:
        raise ExportError(ONNX_HINT.format(error)) from None
    options = CalibrationOptions(
        method=method,
        clips=clips,
        frames=frames,
        seed=seed,
        order="shuffled" if shuffled else "stateful",
        smooth=not no_smoothing,
        keep_float=keep_float,
        drift_frames=drift_frames,
        classes_by=classes_by,
        native=native,
        threads=threads,
    )
    with phase_progress() as watch:
        result = calibrate(
            bundle,
            out,
            open_dataset(dataset, split, labels=False) if dataset is not None else None,
            options,
            ranges=read_ranges(ranges) if ranges is not None else None,
            test=open_dataset(test, test_split) if test is not None else None,
            also=also,
            report=not no_report,
            watch=watch,
        )
    print_calibrated(result, Console())

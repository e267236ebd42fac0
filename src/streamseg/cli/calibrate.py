"""``streamseg calibrate``: a float32 bundle in, an INT8 bundle out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from streamseg.calibration.plan import CalibrationData, CalibrationOptions, ReportOptions
from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.counting import count_of
from streamseg.destinations import FOLDER
from streamseg.errors import DatasetError, ExportError
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.progress import phase_progress
from streamseg.installation import install_command
from streamseg.runtime.bundle.bundle import check_target, read_bundle
from streamseg.runtime.bundle.claims import describe_parity

if TYPE_CHECKING:
    from streamseg.calibration.calibrating import Calibrated


def print_calibrated(result: Calibrated, console: Console) -> None:
    """Print what was written and what it costs."""
    from streamseg.calibration.observation import RANGES
    from streamseg.calibration.quantisation import REPORT

    console.print(
        f"{result.path}: "
        f"{count_of(len(result.layers), 'layer')} INT8, {len(result.kept)} kept in float32; "
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


@subcommand(
    "calibrate",
    examples=(
        "calibrate street/ -o street-int8/ --dataset footage:clips/",
        "calibrate street/ -o street-int8/ --dataset camvid:CamVid --test camvid:CamVid",
    ),
    removed={
        "--frames": "write --clip-frames",
        "--shuffled": "write --order shuffled",
        "--no-smooth": "write --no-smoothing",
    },
)
@click.argument("bundle", type=PLACE)
@grouped("-o", "--out", required=True, type=OutputType(FOLDER), help="Bundle folder to write.")
@dataclass_options(CalibrationData, "data", "Calibration")
@dataclass_options(
    CalibrationOptions,
    "options",
    "Calibration",
    without=("native", "threads", "classes_by", "drift_frames"),
)
@dataclass_options(ReportOptions, "report", "Report")
@dataclass_options(CalibrationOptions, "shown", "Report", only=("classes_by", "drift_frames"))
@dataclass_options(CalibrationOptions, "backend", "Backend", only=("native", "threads"))
def command(
    bundle: Path,
    out: Path,
    data: CalibrationData,
    options: CalibrationOptions,
    shown: CalibrationOptions,
    report: ReportOptions,
    backend: CalibrationOptions,
) -> None:
    """Convert BUNDLE (float32) to INT8.

    Clips are replayed in order, with state, which is reset at the start of each clip. The new
    bundle holds the measured ranges, and a report of the loss through INT8.
    """
    if data.dataset is None and data.ranges is None:
        raise DatasetError(
            "nothing to calibrate on: add --dataset NAME:ROOT (footage:PATH takes any videos or "
            "frames), or --ranges of an earlier calibration"
        )
    check_target(out)
    read_bundle(bundle)
    clips, labelled = data.open(), report.open()
    try:
        from streamseg.calibration.calibrating import calibrate
        from streamseg.calibration.observation import read_ranges
    except ImportError as error:
        raise ExportError(
            f"calibration needs onnx ({error}). Run: {install_command('export')}"
        ) from None
    chosen = replace(
        options,
        classes_by=shown.classes_by,
        drift_frames=shown.drift_frames,
        native=backend.native,
        threads=backend.threads,
    )
    with phase_progress() as watch:
        result = calibrate(
            bundle,
            out,
            clips,
            chosen,
            ranges=None if data.ranges is None else read_ranges(data.ranges),
            test=labelled,
            also=report.also,
            report=report.report,
            watch=watch,
        )
    print_calibrated(result, Console())

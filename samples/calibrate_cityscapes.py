"""Calibrate a bundle on Cityscapes clips and write an INT8 bundle with its report.

    python samples/calibrate_cityscapes.py street/ /data/cityscapes street-int8/

The root must contain ``leftImg8bit_sequence/train`` (30-frame clips; ``leftImg8bit/train`` works
too, but then every clip is one frame and the ranges do not include state) and, for the accuracy in
the report, ``leftImg8bit_sequence/val`` or ``leftImg8bit/val`` with ``gtFine/val``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamseg import StreamsegError
from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.progress import phase_progress


def parse_arguments() -> argparse.Namespace:
    """The bundle, the data and the output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="float32 bundle of a 19-class model")
    parser.add_argument("root", type=Path, help="root folder of Cityscapes")
    parser.add_argument("out", type=Path, help="INT8 bundle to write")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--keep-float", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Replay training clips with state, quantise, and measure on the validation split."""
    arguments = parse_arguments()
    options = CalibrationOptions(
        clips=arguments.clips, clip_frames=arguments.frames, keep_float=arguments.keep_float
    )
    train = open_dataset(f"cityscapes:{arguments.root}", "train", labels=False)
    val = open_dataset(f"cityscapes:{arguments.root}", "val")
    print(f"{len(train.clips)} clips to choose from, {val.label_count} labelled frames to score")
    with phase_progress() as watch:
        result = calibrate(arguments.bundle, arguments.out, train, options, test=val, watch=watch)
    print(f"{result.path}: {len(result.layers)} layers INT8, {len(result.kept)} float32")
    print(f"graphs {result.float_bytes / 1e6:.1f} MB -> {result.bytes / 1e6:.1f} MB")
    for subject in result.report.subjects if result.report else ():
        if subject.evaluation is not None:
            print(f"{subject.name}: mIoU {subject.evaluation.scores.miou:.2%}")
    print(f"report: {result.path / 'calibration/report.html'}")


if __name__ == "__main__":
    try:
        main()
    except StreamsegError as error:
        sys.exit(f"calibrate_cityscapes: {error}")

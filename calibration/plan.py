"""How to calibrate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamseg.calibration.histograms import Method
from streamseg.errors import ExportError
from streamseg.evaluation.class_matching import CLASSES_BY_HELP, ClassesBy
from streamseg.evaluation.datasets import DATASETS, SPLITS, Dataset, open_dataset
from streamseg.option_fields import check_options, option
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.backends.interface import native_option, threads_option

Order = Literal["stateful", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """What a bundle is calibrated on.

    Attributes:
        dataset: ``NAME:ROOT``; needed unless ``ranges`` are given.
        split: of the dataset.
        ranges: calibrated bundle whose ranges are taken instead of replaying clips.
    """

    dataset: str | None = option(
        f"Dataset; NAME is one of {', '.join(DATASETS)}.",
        default=None,
        metavar="NAME:ROOT",
        common=True,
    )
    split: str = option("Split of the dataset.", default="train", choices=SPLITS)
    ranges: Path | None = option(
        "Reuse the ranges of this calibrated bundle instead of replaying clips.", default=None
    )

    def open(self) -> Dataset | None:
        """The clips to replay."""
        if self.dataset is None:
            return None
        return open_dataset(self.dataset, self.split, labels=False)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the report shows.

    Attributes:
        test: ``NAME:ROOT`` of the labelled dataset that accuracy is measured on.
        test_split: of that dataset.
        also: other bundles of the same model to show.
        report: write the report.
    """

    test: str | None = option(
        "Labelled dataset on which the report measures accuracy.",
        default=None,
        metavar="NAME:ROOT",
    )
    test_split: str = option("Split of that dataset.", default="val", choices=SPLITS)
    also: tuple[Path, ...] = option("Another bundle for the report; may be repeated.", default=())
    report: bool = option("Write the report.", default=True)

    def open(self) -> Dataset | None:
        """The labelled clips."""
        return None if self.test is None else open_dataset(self.test, self.test_split)


@dataclass(frozen=True)
class CalibrationOptions:
    """How to calibrate.

    Attributes:
        method: which range to take from the histograms.
        clips: segments to replay, spread over the dataset.
        clip_frames: frames of each.
        seed: of the choice.
        order: ``stateful``, or ``shuffled`` for comparison with calibration on single images.
        smoothing: move outliers from activations into weights where that is free.
        keep_float: how many of the most sensitive layers stay float32.
        rank_frames: frames that the ranking of layers runs on.
        drift_frames: frames of the report's comparison with float32.
        classes_by: how the report matches classes; see ``match_classes``.
        native: native operators, as in ``streamseg.open``.
        threads: CPU threads of a step.

    Raises:
        ExportError: a value is out of its range.
    """

    method: Method = option("How ranges are taken from the histograms.", default="mse")
    clips: int = option("Clips to replay.", default=8, low=1, common=True)
    clip_frames: int = option("Frames of each clip.", default=16, low=1, common=True)
    seed: int = option("Seed of random choices.", default=0)
    order: Order = option(
        "Replay frames in order with state, or as unrelated images (for comparison only).",
        default="stateful",
    )
    smoothing: bool = option("Move outliers from activations into weights.", default=True)
    keep_float: int = option("Keep the N most sensitive layers in float32.", default=0, low=0)
    rank_frames: int = option("Frames on which layers are ranked.", default=3, low=1)
    drift_frames: int = option(
        "Frames of the report's comparison with float32.", default=100, low=1
    )
    classes_by: ClassesBy = option(CLASSES_BY_HELP, default="name")
    native: bool | None = native_option()
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        check_options(self, ExportError)

    @property
    def backend(self) -> BackendOptions:
        """For replaying."""
        return BackendOptions(native=self.native, threads=self.threads)

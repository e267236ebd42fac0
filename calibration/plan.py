"""How to calibrate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamseg.calibration.histograms import Method
from streamseg.errors import ExportError
from streamseg.evaluation.class_matching import CLASSES_BY_HELP, ClassesBy
from streamseg.option_fields import check_options, option
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.backends.interface import native_option, threads_option

Order = Literal["stateful", "shuffled"]


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

"""INT8: clip replay, observation of ranges and quantisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.calibration.calibrating import Calibrated, calibrate, calibrate_bundle
    from streamseg.calibration.observation import Ranges, read_ranges
    from streamseg.calibration.plan import CalibrationOptions

__all__ = [
    "Calibrated",
    "CalibrationOptions",
    "Ranges",
    "calibrate",
    "calibrate_bundle",
    "read_ranges",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Calibrated": "calibration.calibrating",
        "CalibrationOptions": "calibration.plan",
        "Ranges": "calibration.observation",
        "calibrate": "calibration.calibrating",
        "calibrate_bundle": "calibration.calibrating",
        "read_ranges": "calibration.observation",
    },
)

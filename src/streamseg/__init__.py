"""Stateful video segmentation, exported per frame and streamed on edge devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg._version import __version__
from streamseg.errors import StreamsegError
from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.calibration.calibrating import calibrate_bundle as calibrate
    from streamseg.evaluation.evaluating import evaluate_subject as evaluate
    from streamseg.export.exporting import export_checkpoint as export
    from streamseg.runtime.bundle.state import StateSnapshot
    from streamseg.runtime.loop.fleet import Fleet, open_fleet
    from streamseg.runtime.session.events import Event
    from streamseg.runtime.session.policy import StatePolicy
    from streamseg.runtime.session.session import Session
    from streamseg.runtime.sources import open_source
    from streamseg.runtime.step_result import StepResult
    from streamseg.runtime.stream import Stream
    from streamseg.runtime.stream import open_stream as open  # noqa: A004
else:
    from streamseg import export  # a callable package

__all__ = [
    "Event",
    "Fleet",
    "Session",
    "StatePolicy",
    "StateSnapshot",
    "StepResult",
    "Stream",
    "StreamsegError",
    "__version__",
    "calibrate",
    "evaluate",
    "export",
    "open",
    "open_fleet",
    "open_source",
]

# Imported when first used, so that `import streamseg` and `streamseg --help` stay fast.
__getattr__, __dir__ = offer(
    __name__,
    {
        "Event": "runtime.session.events",
        "Fleet": "runtime.loop.fleet",
        "Session": "runtime.session.session",
        "StatePolicy": "runtime.session.policy",
        "StateSnapshot": "runtime.bundle.state",
        "StepResult": "runtime.step_result",
        "Stream": "runtime.stream",
        "calibrate": "calibration.calibrating:calibrate_bundle",
        "evaluate": "evaluation.evaluating:evaluate_subject",
        "open": "runtime.stream:open_stream",
        "open_fleet": "runtime.loop.fleet",
        "open_source": "runtime.sources",
    },
)

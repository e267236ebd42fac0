"""Everything that runs a bundle. Imports neither torch nor onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.runtime.adapters import from_pil, to_detections, to_pil
    from streamseg.runtime.bundle.bundle import Bundle, read_bundle, read_manifest
    from streamseg.runtime.bundle.manifest import ClassInfo, Manifest
    from streamseg.runtime.bundle.state import StateSnapshot, StateSpec
    from streamseg.runtime.loop.fleet import Fleet, open_fleet
    from streamseg.runtime.loop.live_view import LiveView
    from streamseg.runtime.loop.pipeline import RunReport, run_stream
    from streamseg.runtime.loop.recording import RecordOptions, record_stream
    from streamseg.runtime.session.events import Event
    from streamseg.runtime.session.policy import StatePolicy
    from streamseg.runtime.session.session import Session
    from streamseg.runtime.sources.opening import open_source
    from streamseg.runtime.step_result import DeviceStepResult, StepResult
    from streamseg.runtime.stream import Stream, open_stream

__all__ = [
    "Bundle",
    "ClassInfo",
    "DeviceStepResult",
    "Event",
    "Fleet",
    "LiveView",
    "Manifest",
    "RecordOptions",
    "RunReport",
    "Session",
    "StatePolicy",
    "StateSnapshot",
    "StateSpec",
    "StepResult",
    "Stream",
    "from_pil",
    "open_fleet",
    "open_source",
    "open_stream",
    "read_bundle",
    "read_manifest",
    "record_stream",
    "run_stream",
    "to_detections",
    "to_pil",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Bundle": "runtime.bundle.bundle",
        "ClassInfo": "runtime.bundle.manifest",
        "DeviceStepResult": "runtime.step_result",
        "Event": "runtime.session.events",
        "Fleet": "runtime.loop.fleet",
        "LiveView": "runtime.loop.live_view",
        "Manifest": "runtime.bundle.manifest",
        "RecordOptions": "runtime.loop.recording",
        "RunReport": "runtime.loop.pipeline",
        "Session": "runtime.session.session",
        "StatePolicy": "runtime.session.policy",
        "StateSnapshot": "runtime.bundle.state",
        "StateSpec": "runtime.bundle.state",
        "StepResult": "runtime.step_result",
        "Stream": "runtime.stream",
        "from_pil": "runtime.adapters",
        "open_fleet": "runtime.loop.fleet",
        "open_source": "runtime.sources.opening",
        "open_stream": "runtime.stream",
        "read_bundle": "runtime.bundle.bundle",
        "read_manifest": "runtime.bundle.bundle",
        "record_stream": "runtime.loop.recording",
        "run_stream": "runtime.loop.pipeline",
        "to_detections": "runtime.adapters",
        "to_pil": "runtime.adapters",
    },
)

"""Stateful video segmentation, exported per frame and streamed on edge devices."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from streamseg.runtime.events import Event
    from streamseg.runtime.fleet import Fleet, open_fleet
    from streamseg.runtime.policy import StatePolicy
    from streamseg.runtime.session import Session
    from streamseg.runtime.sources import open_source
    from streamseg.runtime.state import StateSnapshot
    from streamseg.runtime.stream import StepResult, Stream
    from streamseg.runtime.stream import open_stream as open  # noqa: A004

__version__ = "0.1.0"
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
    "open",
    "open_fleet",
    "open_source",
]

# Imported when first used, so that `import streamseg` and `streamseg --help` stay fast.
_LAZY = {
    "Event": ("streamseg.runtime.events", "Event"),
    "Fleet": ("streamseg.runtime.fleet", "Fleet"),
    "Session": ("streamseg.runtime.session", "Session"),
    "StatePolicy": ("streamseg.runtime.policy", "StatePolicy"),
    "StateSnapshot": ("streamseg.runtime.state", "StateSnapshot"),
    "StepResult": ("streamseg.runtime.stream", "StepResult"),
    "Stream": ("streamseg.runtime.stream", "Stream"),
    "open": ("streamseg.runtime.stream", "open_stream"),
    "open_fleet": ("streamseg.runtime.fleet", "open_fleet"),
    "open_source": ("streamseg.runtime.sources", "open_source"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'streamseg' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)

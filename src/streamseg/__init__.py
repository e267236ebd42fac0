"""Stateful video segmentation, exported per frame and streamed on edge devices."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamseg._version import __version__
from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from streamseg.runtime.bundle.state import StateSnapshot
    from streamseg.runtime.loop.fleet import Fleet, open_fleet
    from streamseg.runtime.session.events import Event
    from streamseg.runtime.session.policy import StatePolicy
    from streamseg.runtime.session.session import Session
    from streamseg.runtime.sources import open_source
    from streamseg.runtime.stream import StepResult, Stream
    from streamseg.runtime.stream import open_stream as open  # noqa: A004

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
    "Event": ("streamseg.runtime.session.events", "Event"),
    "Fleet": ("streamseg.runtime.loop.fleet", "Fleet"),
    "Session": ("streamseg.runtime.session.session", "Session"),
    "StatePolicy": ("streamseg.runtime.session.policy", "StatePolicy"),
    "StateSnapshot": ("streamseg.runtime.bundle.state", "StateSnapshot"),
    "StepResult": ("streamseg.runtime.stream", "StepResult"),
    "Stream": ("streamseg.runtime.stream", "Stream"),
    "open": ("streamseg.runtime.stream", "open_stream"),
    "open_fleet": ("streamseg.runtime.loop.fleet", "open_fleet"),
    "open_source": ("streamseg.runtime.sources", "open_source"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'streamseg' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)

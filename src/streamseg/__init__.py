"""Stateful video segmentation, exported per frame and streamed on edge devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg._version import __version__
from streamseg.errors import StreamsegError
from streamseg.lazy_names import offer

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
__getattr__, __dir__ = offer(
    __name__,
    {
        "Event": "runtime.session.events",
        "Fleet": "runtime.loop.fleet",
        "Session": "runtime.session.session",
        "StatePolicy": "runtime.session.policy",
        "StateSnapshot": "runtime.bundle.state",
        "StepResult": "runtime.stream",
        "Stream": "runtime.stream",
        "open": "runtime.stream:open_stream",
        "open_fleet": "runtime.loop.fleet",
        "open_source": "runtime.sources",
    },
)

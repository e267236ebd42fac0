"""What happened to a stream, and why: every decision of sources and state policy is one event."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

EventKind = Literal[
    "start",  # the stream delivers its first frame
    "reset",  # state was forgotten
    "lost",  # the source failed and is tried again
    "back",  # the source delivers again
    "geometry",  # frames have another size from here on
    "late",  # a label map was older than the limit
    "snapshot",  # state was written to a file
    "restore",  # state was read from a file
    "carried",  # frames got the labels of the one before them
    "key",  # a frame was made a key frame because of change or age
    "failed",  # a request failed; the stream continues
    "end",  # the stream is over
]

ResetCause = Literal["gap", "geometry", "cut", "nonfinite", "unsure", "request"]
RESET_CAUSES: tuple[ResetCause, ...] = (
    "gap",
    "geometry",
    "cut",
    "nonfinite",
    "unsure",
    "request",
)


@dataclass(frozen=True)
class Event:
    """One thing that happened to a stream.

    Attributes:
        kind: what.
        stream: name of the stream, without passwords.
        frame: index of the frame that it concerns; the next one to come where there is none yet.
        timestamp: that frame's time in the source, seconds.
        reason: why, a human-readable phrase.
        cause: of a reset, one of ``ResetCause``; empty for other kinds.
        time: when, seconds since the epoch.
    """

    kind: EventKind
    stream: str
    frame: int
    timestamp: float
    reason: str
    cause: ResetCause | Literal[""] = ""
    time: float = field(default_factory=time.time)

    def __str__(self) -> str:
        """One line for people."""
        stream = f"{self.stream}: " if self.stream else ""
        cause = f" ({self.cause})" if self.cause else ""
        return (
            f"{stream}frame {self.frame} at {self.timestamp:.3f} s: {self.kind}{cause}: "
            f"{self.reason}"
        )


EventHandler = Callable[[Event], None]

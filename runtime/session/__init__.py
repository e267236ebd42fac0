"""Sessions: when state is reset, and how it is saved and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.runtime.session.cuts import CutDetector
    from streamseg.runtime.session.event_log import EventLog
    from streamseg.runtime.session.events import Event
    from streamseg.runtime.session.policy import GapDetector, StatePolicy
    from streamseg.runtime.session.session import Session
    from streamseg.runtime.session.snapshots import (
        Position,
        SessionSnapshot,
        SnapshotPlan,
        read_snapshot,
        write_snapshot,
    )

__all__ = [
    "CutDetector",
    "Event",
    "EventLog",
    "GapDetector",
    "Position",
    "Session",
    "SessionSnapshot",
    "SnapshotPlan",
    "StatePolicy",
    "read_snapshot",
    "write_snapshot",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "CutDetector": "runtime.session.cuts",
        "Event": "runtime.session.events",
        "EventLog": "runtime.session.event_log",
        "GapDetector": "runtime.session.policy",
        "Position": "runtime.session.snapshots",
        "Session": "runtime.session.session",
        "SessionSnapshot": "runtime.session.snapshots",
        "SnapshotPlan": "runtime.session.snapshots",
        "StatePolicy": "runtime.session.policy",
        "read_snapshot": "runtime.session.snapshots",
        "write_snapshot": "runtime.session.snapshots",
    },
)

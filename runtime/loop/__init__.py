"""The loop: sources are read, frames are segmented, outputs are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.runtime.loop.decoding import Pacing
    from streamseg.runtime.loop.fleet import Attachment, Fleet, open_fleet
    from streamseg.runtime.loop.member import FleetFrame, Member, MemberOptions
    from streamseg.runtime.loop.pipeline import RunReport, run_stream
    from streamseg.runtime.loop.roster import Roster, StreamEntry, read_streams

__all__ = [
    "Attachment",
    "Fleet",
    "FleetFrame",
    "Member",
    "MemberOptions",
    "Pacing",
    "Roster",
    "RunReport",
    "StreamEntry",
    "open_fleet",
    "read_streams",
    "run_stream",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Attachment": "runtime.loop.fleet",
        "Fleet": "runtime.loop.fleet",
        "FleetFrame": "runtime.loop.member",
        "Member": "runtime.loop.member",
        "MemberOptions": "runtime.loop.member",
        "Pacing": "runtime.loop.decoding",
        "Roster": "runtime.loop.roster",
        "RunReport": "runtime.loop.pipeline",
        "StreamEntry": "runtime.loop.roster",
        "open_fleet": "runtime.loop.fleet",
        "read_streams": "runtime.loop.roster",
        "run_stream": "runtime.loop.pipeline",
    },
)

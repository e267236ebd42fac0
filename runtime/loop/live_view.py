"""Whoever watches streams while they run, such as the web page."""

from __future__ import annotations

from typing import Protocol

from streamseg.runtime.loop.member import FleetFrame, Member
from streamseg.runtime.session.events import Event


class LiveView(Protocol):
    """Shows streams; ``offer`` must not wait for anybody. All but ``report`` in the loop's thread.

    ``streamseg.serving.open_viewer`` makes one.
    """

    def join(self, member: Member) -> None:
        """Show a stream from now on."""

    def offer(self, member: Member, done: FleetFrame) -> None:
        """Take a frame with its labels, which are valid until the stream's next step."""

    def leave(self, member: Member) -> None:
        """Show a stream no more."""

    def report(self, event: Event) -> None:
        """Show an event, from any thread."""

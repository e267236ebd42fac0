"""The page as the view of a running loop, and the choice between a window and the page."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from streamseg.errors import ServeError, SinkError
from streamseg.installation import install_command
from streamseg.runtime.loop.live_view import LiveView
from streamseg.runtime.sinks.window import find_window_problem
from streamseg.runtime.stream import Stream
from streamseg.serving.page_options import PageOptions

if TYPE_CHECKING:
    from streamseg.runtime.loop.member import FleetFrame, Member
    from streamseg.runtime.session.events import Event
    from streamseg.serving.server import PageServer
    from streamseg.serving.view import StreamView

REQUIRED = ("aiohttp", "prometheus_client")


def find_page_problem() -> str:
    """Why the page cannot be served here; empty where it can."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    return f"{missing[0]} is not installed ({install_command('serve')})" if missing else ""


class LivePage:
    """Shows the streams of a loop on a page.

    Args:
        server: of the page; closed by whoever made it.
        counts: count events in the members' figures, where the loop does not: a fleet does.
    """

    def __init__(self, server: PageServer, *, counts: bool = False) -> None:
        self._server, self._counts = server, counts
        self._views: dict[Member, StreamView] = {}

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        return self._server.url

    def join(self, member: Member) -> None:
        """Show a stream from now on."""
        from streamseg.serving.view import StreamView

        view = StreamView(member.session, member.metrics, lambda: member.source_name)
        self._views[member] = view
        self._server.join(view)

    def offer(self, member: Member, done: FleetFrame) -> None:
        """Take a frame with its labels; never waits for a viewer."""
        view = self._views.get(member)
        if view is not None:  # it may have left meanwhile
            self._server.offer(view, done.frame, done.result.labels)

    def leave(self, member: Member) -> None:
        """Show a stream no more."""
        view = self._views.pop(member, None)
        if view is not None:
            self._server.leave(view)

    def report(self, event: Event) -> None:
        """Show an event, from any thread."""
        if self._counts:
            for member in list(self._views):
                if member.session.name == event.stream:
                    member.metrics.count(event)
        self._server.report(event)


@contextmanager
def open_page(
    stream: Stream, *, port: int | None = None, counts: bool = True
) -> Iterator[LivePage]:
    """A page on this machine for streams of a bundle; closed at the end.

    Args:
        stream: gives the classes and what runs.
        port: to bind to; by default that of ``streamseg serve``, or another if it is taken.
        counts: see ``LivePage``.
    Raises:
        ServeError: the extra ``serve`` is not installed, or the port cannot be bound.
    """
    if problem := find_page_problem():
        raise ServeError(f"cannot serve a page: {problem}")
    from streamseg.serving.server import PageServer

    def bind(number: int) -> PageServer:
        return PageServer(stream.manifest.classes, stream.execution, port=number)

    try:
        server = bind(PageOptions().port if port is None else port)
    except ServeError:
        if port is not None:
            raise
        server = bind(0)
    with server:
        yield LivePage(server, counts=counts)


def require_view() -> str:
    """Why pictures are shown on the page instead of a window; empty where a window opens.

    Raises:
        SinkError: neither can be opened.
    """
    problem = find_window_problem()
    if problem and (other := find_page_problem()):
        raise SinkError(f"cannot open a window: {problem}; nor the page: {other}; or write a file")
    return problem


@contextmanager
def open_viewer(
    stream: Stream, *, say: Callable[[str], object] = print
) -> Iterator[LiveView | Literal[True]]:
    """What to give to ``Stream.run(show=...)``: a window or, where none can be opened, the page.

    Args:
        stream: that will run.
        say: gets one line with the address of the page.
    Yields:
        True for a window, or the page, which is served until the end.
    Raises:
        SinkError: neither can be opened.
    """
    problem = require_view()
    if not problem:
        yield True
        return
    with open_page(stream) as page:
        say(describe_page(page, problem))
        yield page


def describe_page(page: LivePage, problem: str) -> str:
    """The line that says where the pictures are."""
    return f"{page.url} shows the pictures; no window: {problem}"

"""``run --show``: a window, or the page where none can be opened."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamseg.runtime.sinks.outputs import OutputOptions

if TYPE_CHECKING:
    from streamseg.runtime.session.events import Event, EventHandler
    from streamseg.runtime.sinks.mqtt import MqttPublisher
    from streamseg.runtime.stream import Stream
    from streamseg.serving.live_page import LivePage


@dataclass
class Viewing:
    """How ``--show`` shows the streams of one run.

    Attributes:
        outputs: what is opened for each stream, a window among it if there can be one.
        problem: why the page is used instead of a window; empty where it is not.
        page: once it is open.
        publisher: to which events go too.
    """

    outputs: OutputOptions
    problem: str = ""
    page: LivePage | None = None
    publisher: MqttPublisher | None = None

    @classmethod
    def choose(cls, outputs: OutputOptions) -> Viewing:
        """Decide before anything is opened.

        Raises:
            SinkError: neither a window nor the page can be opened.
        """
        from streamseg.serving.live_page import require_view

        if not outputs.show or not (problem := require_view()):
            return cls(outputs)
        return cls(replace(outputs, show=False, null=outputs.null or not outputs.places), problem)

    @property
    def alone(self) -> bool:
        """Whether the page is all that comes of the run, so that files play at their own pace."""
        return bool(self.problem) and not self.outputs.places

    def open(
        self, stack: ExitStack, stream: Stream, say: Callable[[str], object], *, counts: bool
    ) -> None:
        """Open the page if it is needed, and say where.

        Args:
            stack: closes it.
            stream: of the bundle.
            say: gets the address.
            counts: see ``LivePage``.
        Raises:
            ServeError: no port can be bound.
        """
        if self.problem:
            from streamseg.serving.live_page import describe_page, open_page

            self.page = stack.enter_context(open_page(stream, counts=counts))
            say(describe_page(self.page, self.problem))

    def report_to(self, handler: EventHandler) -> EventHandler:
        """A handler that also shows events on the page, once that is open, and publishes them."""

        def report(event: Event) -> None:
            handler(event)
            if self.publisher is not None:
                self.publisher.report(event)
            if self.page is not None:
                self.page.report(event)

        return report

"""One opened stream over one source into files: what ``Stream.run`` does."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import SinkError
from streamseg.runtime.loop.live_view import LiveView
from streamseg.runtime.loop.member import MemberOptions
from streamseg.runtime.loop.pipeline import RunReport, run_stream
from streamseg.runtime.session.events import Event, EventHandler
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import RunJob, Session
from streamseg.runtime.sinks import (
    AreaSink,
    LabelSink,
    NullSink,
    SheetSink,
    Sink,
    WindowSink,
)
from streamseg.runtime.sinks.outputs import WRITTEN
from streamseg.runtime.sinks.pictures import open_overlay
from streamseg.runtime.sources import Source, open_source, require_kept
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.overlay import Overlay

logger = logging.getLogger(__name__)

Place = str | os.PathLike[str]


@dataclass(frozen=True)
class RecordOptions:
    """The files that ``record_stream`` writes; see ``Stream.run``.

    Raises:
        SinkError: an output does not accept its path.
    """

    out: Place | None = None
    labels: Place | None = None
    areas: Place | None = None
    sheet: Place | None = None
    show: bool | LiveView = False

    def __post_init__(self) -> None:
        for kind, written in WRITTEN.items():
            given = getattr(self, kind, None)
            if given is not None:
                object.__setattr__(self, kind, written.read(given, SinkError))

    @property
    def places(self) -> list[Path]:
        """What is written."""
        given = (self.out, self.labels, self.areas, self.sheet)
        return [Path(place) for place in given if place is not None]

    def open_sinks(
        self, stream: Stream, source: Source, stop: Callable[[], None], frames: int | None
    ) -> Iterator[Sink]:
        """Open them, one after the other.

        Args:
            stream: gives the classes.
            source: gives the title and the rate.
            stop: called when the viewer closes the window.
            frames: how many will be segmented, where that is limited.
        Raises:
            SinkError: one cannot be written, or there is no display.
        """
        if self.show is True:
            yield WindowSink(source.name, stop)
        if self.out is not None:
            yield open_overlay(Path(self.out), source, frames)
        if self.labels is not None:
            yield LabelSink(Path(self.labels))
        if self.areas is not None:
            yield AreaSink(Path(self.areas), stream.manifest.classes)
        if self.sheet is not None:
            yield SheetSink(Path(self.sheet))
        if not self.places and self.show is not True:
            yield NullSink()


def _report_to(view: LiveView, on_event: EventHandler | None) -> EventHandler:
    """A handler that reports to both; events are logged where only the view takes them."""

    def report(event: Event) -> None:
        view.report(event)
        if on_event is not None:
            on_event(event)
        else:
            logger.info("%s", event)

    return report


def record_stream(
    stream: Stream,
    source: str | os.PathLike[str] | Source,
    outputs: RecordOptions,
    *,
    frames: int | None = None,
    policy: StatePolicy | None = None,
    on_event: EventHandler | None = None,
) -> RunReport:
    """Segment a source into files; see ``Stream.run``.

    Args:
        stream: continues from its state; not closed.
        source: an address, or an opened source, which is not closed.
        outputs: what to write; with nothing to write the report says how fast it was.
        frames: stop after so many.
        policy: what resets the state.
        on_event: gets events; without it they are logged.
    Raises:
        SourceError, SinkError, BackendError: as ``Stream.run``.
    """
    with ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            require_kept(os.fspath(source), outputs.places)
            opened = stack.enter_context(open_source(os.fspath(source), on_event=on_event))
        else:
            opened = source
        stop = threading.Event()
        view = None if isinstance(outputs.show, bool) else outputs.show
        report = on_event if view is None else _report_to(view, on_event)
        sinks: list[Sink] = []
        for sink in outputs.open_sinks(stream, opened, stop.set, frames):
            stack.callback(sink.discard)
            sinks.append(sink)

        def make_session(run_job: RunJob) -> Session:
            return Session(stream, policy, name=opened.name, on_event=report, run_job=run_job)

        return run_stream(
            make_session,
            opened,
            Overlay(stream.manifest.classes),
            sinks,
            on_event=report,
            options=MemberOptions(limit=frames),
            stop=stop,
            view=view,
        )

"""One opened stream over one source into files: what ``Stream.run`` does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from streamseg.runtime.loop.member import MemberOptions
from streamseg.runtime.loop.pipeline import RunReport, run_stream
from streamseg.runtime.session.events import EventHandler
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import RunJob, Session
from streamseg.runtime.sinks import (
    AreaSink,
    LabelSink,
    NullSink,
    SheetSink,
    Sink,
    VideoSink,
    WindowSink,
)
from streamseg.runtime.sources import Source, open_source, require_kept
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.overlay import Overlay

Place = str | os.PathLike[str]


@dataclass(frozen=True)
class RecordOptions:
    """The files that ``record_stream`` writes; see ``Stream.run``."""

    out: Place | None = None
    labels: Place | None = None
    areas: Place | None = None
    sheet: Place | None = None
    show: bool = False

    @property
    def places(self) -> list[Path]:
        """What is written."""
        given = (self.out, self.labels, self.areas, self.sheet)
        return [Path(place) for place in given if place is not None]

    def open_sinks(
        self, stream: Stream, source: Source, stop: Callable[[], None]
    ) -> Iterator[Sink]:
        """Open them, one after the other.

        Args:
            stream: gives the classes.
            source: gives the title and the rate.
            stop: called when the viewer closes the window.
        Raises:
            SinkError: one cannot be written, or there is no display.
        """
        if self.show:
            yield WindowSink(source.name, stop)
        if self.out is not None:
            yield VideoSink(Path(self.out), source.fps)
        if self.labels is not None:
            yield LabelSink(Path(self.labels))
        if self.areas is not None:
            yield AreaSink(Path(self.areas), stream.manifest.classes)
        if self.sheet is not None:
            yield SheetSink(Path(self.sheet))
        if not self.places and not self.show:
            yield NullSink()


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
        sinks: list[Sink] = []
        for sink in outputs.open_sinks(stream, opened, stop.set):
            stack.callback(sink.discard)
            sinks.append(sink)

        def make_session(run_job: RunJob) -> Session:
            return Session(stream, policy, name=opened.name, on_event=on_event, run_job=run_job)

        return run_stream(
            make_session,
            opened,
            Overlay(stream.manifest.classes),
            sinks,
            on_event=on_event,
            options=MemberOptions(limit=frames),
            stop=stop,
        )

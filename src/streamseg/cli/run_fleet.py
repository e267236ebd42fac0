"""``streamseg run`` with many sources: outputs for each, one table at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.cli.phases import show_phases
from streamseg.cli.streams import StreamArguments, reload_on_hangup, reset_streams, save_streams
from streamseg.cli.viewing import Viewing
from streamseg.counting import count_of
from streamseg.errors import StreamsegError
from streamseg.files import STDOUT
from streamseg.runtime.loop.fleet import Attachment, Fleet
from streamseg.runtime.loop.member import Member
from streamseg.runtime.loop.roster import StreamEntry
from streamseg.runtime.loop.stream_metrics import StreamMetrics
from streamseg.runtime.opening_options import OpeningOptions
from streamseg.runtime.sinks import Sink
from streamseg.runtime.sinks.outputs import WRITTEN, OutputOptions
from streamseg.runtime.sources import Source

if TYPE_CHECKING:
    from rich.console import Console

    from streamseg.runtime.session.events import Event


@dataclass(frozen=True)
class FleetArguments:
    """What ``streamseg run`` is asked to do with many streams."""

    bundle: Path
    streams: StreamArguments
    events: Path | None
    outputs: OutputOptions
    frames: int | None
    opening: OpeningOptions

    def entries(self) -> tuple[StreamEntry, dict[str, StreamEntry]]:
        """Defaults of every stream, and the streams.

        Raises:
            SourceError: the list is invalid, or two streams would write to the same place.
            SinkError: no output is selected.
        """
        defaults = self.streams.defaults(self.outputs.places)
        entries = self.streams.entries(defaults)
        shown = self.outputs.null or self.outputs.show or self.streams.publishing.mqtt is not None
        if not shown and not any(entry.outputs for entry in entries.values()):
            self.outputs.require_one()
        return defaults, entries


class FleetRun:
    """The streams of one run with what each writes.

    Attributes:
        metrics: of every stream that ever joined.
    """

    def __init__(
        self, fleet: Fleet, viewing: Viewing, limit: int | None, say: Callable[[str], None]
    ) -> None:
        self.metrics: dict[str, StreamMetrics] = {}
        self._fleet, self._viewing, self._limit, self._say = fleet, viewing, limit, say

    def attach(self, entry: StreamEntry) -> Attachment:
        """What a stream that joins writes, and what is printed when it leaves."""
        from streamseg.runtime.loop.writing import Outputs
        from streamseg.runtime.sinks.mqtt import MqttAreaSink

        manifest = self._fleet.stream.manifest
        places: dict[str, Any] = {**dict.fromkeys(WRITTEN), **entry.paths}
        arguments = replace(self._viewing.outputs, **places, null=not entry.paths)

        def open_sinks(source: Source) -> list[Sink]:
            with ExitStack() as opened:
                sinks = arguments.open(opened, source, lambda: manifest, close, frames=self._limit)
                if self._viewing.publisher is not None:
                    publisher = self._viewing.publisher
                    sinks.append(MqttAreaSink(publisher, entry.name, manifest.classes))
                # The writer ends them from here on.
                opened.pop_all()
            return sinks

        def close() -> None:
            with suppress(StreamsegError):  # it may have left already
                self._fleet.remove(entry.name)

        return Attachment(
            outputs=Outputs(open_sinks, arguments.overlay(manifest)),
            limit=self._limit,
            on_join=self._join,
            on_leave=self._leave,
        )

    def _join(self, member: Member) -> None:
        self.metrics[member.name] = member.metrics
        if self._viewing.page is not None:
            self._viewing.page.join(member)

    def _leave(self, member: Member) -> None:
        if self._viewing.page is not None:
            self._viewing.page.leave(member)
        assert member.writer is not None
        for sentence in member.writer.sentences:
            self._say(sentence)


def run_fleet(arguments: FleetArguments) -> int:
    """Segment many streams until all are over, or with a list of streams until asked to stop.

    Returns:
        Exit code: 0 done, 1 some stream failed, 128 + n ended by a signal.
    """
    from rich.console import Console

    from streamseg.runtime.loop.fleet import open_fleet
    from streamseg.runtime.loop.roster import Roster
    from streamseg.runtime.session.event_log import EventLog
    from streamseg.signals import call_on_signals, stop_on_signals

    viewing = Viewing.choose(arguments.outputs)
    if viewing.alone:
        reading = replace(arguments.streams.reading, realtime=True)
        arguments = replace(arguments, streams=replace(arguments.streams, reading=reading))
    defaults, entries = arguments.entries()
    to_stdout = arguments.outputs.to_stdout or arguments.events == STDOUT
    console = Console(highlight=False, soft_wrap=True, stderr=to_stdout)

    def say(line: str) -> None:
        console.print(line, markup=False)

    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        log = EventLog(say, arguments.events)
        stack.callback(log.close)
        viewing.publisher = arguments.streams.publish(stack)
        handle = viewing.report_to(log)

        def report(event: Event) -> None:
            handle(event)
            if event.kind == "end":
                say(str(event))

        ending = stack.enter_context(ExitStack())
        with show_phases(f"opening {arguments.bundle}"):
            fleet = ending.enter_context(
                open_fleet(
                    arguments.bundle,
                    stay=arguments.streams.listed is not None,
                    stop=request.event,
                    on_event=report,
                    reuse=True,
                    expected=len(entries),
                    **arguments.opening.arguments,
                )
            )
        viewing.open(ending, fleet.stream, say, counts=False)
        run = FleetRun(fleet, viewing, arguments.frames, say)
        ending.enter_context(
            call_on_signals(
                {
                    signal.SIGUSR1: lambda: fleet.request(lambda: reset_streams(fleet)),
                    signal.SIGUSR2: lambda: fleet.request(lambda: save_streams(fleet)),
                }
            )
        )
        roster = Roster(fleet, attach=run.attach, on_change=say)
        roster.follow(entries)
        ending.enter_context(reload_on_hangup(fleet, roster, arguments.streams.listed, defaults))
        say(f"{count_of(len(entries), 'stream')} on {fleet.stream.execution}")
        for done in fleet:
            if viewing.page is not None:
                viewing.page.offer(fleet[done.stream], done)
        ending.close()
        failed = fleet.failed & set(roster.names)
    print_table(console, run.metrics)
    if request.signal:
        return 128 + request.signal
    return 1 if failed else 0


def print_table(console: Console, metrics: Mapping[str, StreamMetrics]) -> None:
    """Print one row of figures for every stream."""
    from rich.table import Table

    table = Table(title="streams", title_justify="left")
    names = ("stream", "frames", "median ms", "p95 ms", "resets", "dropped", "damaged", "late")
    for name in names:
        table.add_column(name, justify="left" if name == "stream" else "right")
    for name, entry in metrics.items():
        figures = entry.read()
        median, high = (f"{seconds * 1e3:.1f}" for seconds in figures.latency)
        counts = (sum(figures.resets.values()), figures.dropped, figures.corrupt, figures.late)
        table.add_row(name, str(figures.frames), median, high, *map(str, counts))
    console.print(table)

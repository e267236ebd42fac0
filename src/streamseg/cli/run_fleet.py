"""``streamseg run`` with many sources: outputs for each, one table at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.cli.output_options import OutputArguments
from streamseg.cli.policy_options import PolicyArguments
from streamseg.cli.source_options import SourceArguments
from streamseg.cli.streams import (
    default_entry,
    list_entries,
    reload_on_hangup,
    reset_streams,
    save_streams,
)
from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from rich.console import Console

    from streamseg.runtime.loop.fleet import Attachment, Fleet
    from streamseg.runtime.loop.member import Member
    from streamseg.runtime.loop.roster import StreamEntry
    from streamseg.runtime.loop.stream_metrics import StreamMetrics
    from streamseg.runtime.session.events import Event
    from streamseg.runtime.sinks import Sink
    from streamseg.runtime.sources import Source


@dataclass(frozen=True)
class FleetArguments:
    """What ``streamseg run`` was told about many streams."""

    bundle: Path
    source: SourceArguments
    streams: Path | None
    outputs: OutputArguments
    state: PolicyArguments
    frames: int | None

    def entries(self) -> tuple[StreamEntry, dict[str, StreamEntry]]:
        """Defaults of every stream, and the streams.

        Raises:
            UsageError: nothing to write.
            SourceError: the list is bad, or two streams would write to the same place.
            SinkError: no windows here, and one was asked for.
        """
        from streamseg.runtime.loop.roster import OUTPUTS
        from streamseg.runtime.sinks.window import require_windows

        places = {kind: getattr(self.outputs, kind) for kind in OUTPUTS}
        defaults = default_entry(self.source, self.state, places)
        entries = list_entries(self.source, self.streams, defaults)
        if self.outputs.window:
            require_windows()
        shown = self.outputs.null or self.outputs.window
        if not shown and not any(entry.outputs for entry in entries.values()):
            self.outputs.require_one()
        return defaults, entries


class FleetRun:
    """The streams of one run with what each writes.

    Attributes:
        metrics: of every stream that ever took part.
    """

    def __init__(
        self, fleet: Fleet, outputs: OutputArguments, limit: int | None, say: Callable[[str], None]
    ) -> None:
        self.metrics: dict[str, StreamMetrics] = {}
        self._fleet, self._outputs, self._limit, self._say = fleet, outputs, limit, say

    def attach(self, entry: StreamEntry) -> Attachment:
        """What a stream that joins writes, and what is printed when it left."""
        from streamseg.runtime.loop.fleet import Attachment
        from streamseg.runtime.loop.roster import OUTPUTS
        from streamseg.runtime.loop.writing import Outputs

        manifest = self._fleet.stream.manifest
        places: Mapping[str, Path | None] = {**dict.fromkeys(OUTPUTS), **entry.paths}
        arguments = replace(self._outputs, null=not entry.paths, **places)  # type: ignore[arg-type]

        def open_sinks(source: Source) -> list[Sink]:
            with ExitStack() as opened:
                sinks = arguments.open(opened, source, lambda: manifest, close)
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

    def _leave(self, member: Member) -> None:
        assert member.writer is not None
        for sentence in member.writer.sentences:
            self._say(sentence)


def run_fleet(arguments: FleetArguments, **opening: Any) -> int:
    """Segment many streams until all are over, or with a list of streams until asked to stop.

    Returns:
        Exit code: 0 done, 1 some stream failed, 128 + n ended by a signal.
    """
    from rich.console import Console

    from streamseg.runtime.loop.fleet import open_fleet
    from streamseg.runtime.loop.roster import Roster
    from streamseg.runtime.session.event_log import EventLog
    from streamseg.signals import call_on_signals, stop_on_signals

    defaults, entries = arguments.entries()
    console = Console(highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        console.print(line, markup=False)

    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        log = EventLog(say, arguments.state.events)
        stack.callback(log.close)

        def tell(event: Event) -> None:
            log(event)
            if event.kind == "end":
                say(str(event))

        ending = stack.enter_context(ExitStack())
        fleet = ending.enter_context(
            open_fleet(
                arguments.bundle,
                stay=arguments.streams is not None,
                stop=request.event,
                on_event=tell,
                reuse=True,
                **opening,
            )
        )
        run = FleetRun(fleet, arguments.outputs, arguments.frames, say)
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
        ending.enter_context(reload_on_hangup(fleet, roster, arguments.streams, defaults))
        say(f"{len(entries)} streams on {fleet.stream.execution}")
        for _ in fleet:
            pass
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

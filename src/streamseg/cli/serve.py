"""``streamseg serve``: a web page with the live pictures and figures of one or many streams."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.dataclass_options import dataclass_options
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import source_of
from streamseg.cli.streams import (
    StreamArguments,
    reload_on_hangup,
    reset_streams,
    save_streams,
    stream_options,
)
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.counting import count_of
from streamseg.errors import ServeError, domain_error
from streamseg.runtime.opening_options import OpeningOptions
from streamseg.serving.page_options import TOKEN_VARIABLE, PageOptions

if TYPE_CHECKING:
    from streamseg.runtime.loop.roster import StreamEntry
    from streamseg.runtime.session.events import Event

STALLED = 30.0  # seconds without a step after which /healthz reports a failure


@subcommand(
    "serve",
    examples=(
        "serve street/ front=rtsp://camera/live",
        "serve street/ --streams streams.toml --host 0.0.0.0 --token-file token",
    ),
    removed={
        **source_of("serve"),
        "--max-latency-ms": "write --max-latency, in seconds",
    },
)
@click.argument("bundle", type=PLACE)
@stream_options
@dataclass_options(PageOptions, "page", "Page")
@dataclass_options(OpeningOptions, "opening", "Backend")
def command(
    bundle: Path,
    streams: StreamArguments,
    events: Path | None,
    page: PageOptions,
    opening: OpeningOptions,
) -> int:
    """Show each SOURCE with the labels of BUNDLE on a web page.

    A SOURCE is [NAME=]ADDRESS; addresses are those of 'streamseg run'. Files and scenes play at
    their own pace. Ctrl-C ends it; SIGUSR1 resets every state, SIGUSR2 writes every snapshot, in
    whose path {stream} stands for the name.
    """
    require_server()
    # What logging imports at its first record must be there before descriptors may run out.
    import rich.table
    import rich.traceback  # noqa: F401
    from rich.console import Console

    from streamseg.runtime.loop.fleet import Attachment, open_fleet
    from streamseg.runtime.loop.roster import Roster
    from streamseg.runtime.loop.writing import Outputs
    from streamseg.runtime.session.event_log import EventLog
    from streamseg.runtime.sinks.mqtt import MqttAreaSink
    from streamseg.runtime.video.overlay import Overlay
    from streamseg.serving.live_page import LivePage
    from streamseg.serving.server import PageServer
    from streamseg.signals import call_on_signals, stop_on_signals

    defaults = streams.defaults()
    defaults = replace(defaults, options=replace(defaults.options, realtime=True))
    entries = streams.entries(defaults)
    token = find_token(page.token_file)
    console = Console(highlight=False, soft_wrap=True, stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False)

    def report(event: Event) -> None:
        log(event)
        if event.kind in ("start", "end"):
            say(str(event))
        shown.report(event)
        if publisher is not None:
            publisher.report(event)

    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        log = EventLog(say, events)
        stack.callback(log.close)
        publisher = streams.publish(stack)
        with show_phases(f"opening {bundle}"):
            fleet = stack.enter_context(
                open_fleet(
                    bundle,
                    stay=True,
                    stop=request.event,
                    on_event=report,
                    reuse=True,
                    expected=len(entries),
                    **opening.arguments,
                )
            )
        server = stack.enter_context(
            PageServer(
                fleet.stream.manifest.classes,
                fleet.stream.execution,
                host=page.host,
                port=page.port,
                token=token,
                snapshots=page.snapshots,
                healthy=lambda: fleet.idle < STALLED,
            )
        )

        shown = LivePage(server)

        def attach(entry: StreamEntry) -> Attachment:
            outputs = None
            if publisher is not None:
                classes = fleet.stream.manifest.classes
                areas = MqttAreaSink(publisher, entry.name, classes)
                outputs = Outputs(lambda _source: [areas], Overlay(classes))
            return Attachment(outputs=outputs, on_join=shown.join, on_leave=shown.leave)

        roster = Roster(fleet, attach=attach, on_change=say)
        roster.follow(entries)
        stack.enter_context(reload_on_hangup(fleet, roster, streams.listed, defaults))
        reset = partial(fleet.request, partial(reset_streams, fleet))
        save = partial(fleet.request, partial(save_streams, fleet))
        stack.enter_context(call_on_signals({signal.SIGUSR1: reset, signal.SIGUSR2: save}))
        say(f"{server.url} shows {count_of(len(entries), 'stream')} on {fleet.stream.execution}")
        for done in fleet:
            try:
                shown.offer(fleet[done.stream], done)
            except Exception as error:  # whatever it is, the other streams continue
                fleet.remove(done.stream, domain_error(error, ServeError))
    return 128 + request.signal if request.signal else 0


def find_token(path: Path | None) -> str | None:
    """The token of the file or of the environment; a command line could be seen by others."""
    from streamseg.serving.access import read_token

    return os.environ.get(TOKEN_VARIABLE) or None if path is None else read_token(path)


def require_server() -> None:
    """Raise ServeError where the extra is not installed."""
    from streamseg.serving.live_page import find_page_problem

    if problem := find_page_problem():
        raise ServeError(f"cannot serve a page: {problem}")

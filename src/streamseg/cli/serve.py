"""``streamseg serve``: a web page with the live pictures and figures of one or many streams."""

from __future__ import annotations

import importlib.util
import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamseg.cli.opening_options import opening_options
from streamseg.cli.policy_options import PolicyArguments, policy_options
from streamseg.cli.source_options import SourceArguments, source_options
from streamseg.cli.streams import (
    default_entry,
    list_entries,
    reload_on_hangup,
    reset_streams,
    save_streams,
    streams_option,
)
from streamseg.errors import ServeError, domain_error

if TYPE_CHECKING:
    from streamseg.runtime.loop.member import Member
    from streamseg.runtime.loop.roster import StreamEntry
    from streamseg.runtime.session.events import Event

PATH = click.Path(path_type=Path)
REQUIRED = ("aiohttp", "prometheus_client")
TOKEN_VARIABLE = "STREAMSEG_TOKEN"
STALLED = 30.0  # seconds without a turn of the streams after which /healthz says so


@click.command()
@click.argument("bundle", type=PATH)
@source_options(multiple=True, required=False)
@streams_option
@policy_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--token-file",
    type=PATH,
    help=f"File with the token that visitors need; or set {TOKEN_VARIABLE}.",
)
@click.option("--snapshots", type=PATH, help="Folder for states saved by the page's button.")
@opening_options
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one step.")
def command(
    bundle: Path,
    source: SourceArguments,
    streams: Path | None,
    state: PolicyArguments,
    host: str,
    port: int,
    token_file: Path | None,
    snapshots: Path | None,
    letterbox: bool | None,
    backend: str,
    native: bool | None,
    library: Path | None,
    engine: Path | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> int:
    """Show on a web page what BUNDLE makes of one or many sources.

    A source is [NAME=]ADDRESS; files and scenes play at their own pace. Ends on Ctrl-C; SIGUSR1
    resets every state, SIGUSR2 writes it to the file of --snapshot, in which {stream} stands for
    the name.
    """
    require_server()
    # What logging imports at its first record must be there before descriptors may run out.
    import rich.table
    import rich.traceback  # noqa: F401
    from rich.console import Console

    from streamseg.runtime.loop.fleet import Attachment, open_fleet
    from streamseg.runtime.loop.roster import Roster
    from streamseg.runtime.session.event_log import EventLog
    from streamseg.serving.server import PageServer
    from streamseg.serving.view import StreamView
    from streamseg.signals import call_on_signals, stop_on_signals

    state.check()
    defaults = default_entry(source, state)
    defaults = replace(defaults, options=replace(defaults.options, realtime=True))
    entries = list_entries(source, streams, defaults)
    token = find_token(token_file)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    shown: dict[Member, StreamView] = {}

    def say(line: str) -> None:
        console.print(line, markup=False)

    def tell(event: Event) -> None:
        log(event)
        if event.kind in ("start", "end"):
            say(str(event))
        server.report(event)

    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        log = EventLog(say, state.events)
        stack.callback(log.close)
        fleet = stack.enter_context(
            open_fleet(
                bundle,
                stay=True,
                stop=request.event,
                on_event=tell,
                backend=backend,
                native=native,
                library=library,
                engine=engine,
                device=device,
                precision=precision,
                letterbox=letterbox,
                reuse=True,
                threads=threads,
            )
        )
        server = stack.enter_context(
            PageServer(
                fleet.stream.manifest.classes,
                fleet.stream.execution,
                host=host,
                port=port,
                token=token,
                snapshots=snapshots,
                healthy=lambda: fleet.idle < STALLED,
            )
        )

        def attach(_entry: StreamEntry) -> Attachment:
            def show(member: Member) -> None:
                view = StreamView(member.session, member.metrics, lambda: member.source_name)
                shown[member] = view
                server.join(view)

            return Attachment(on_join=show, on_leave=lambda member: server.leave(shown.pop(member)))

        roster = Roster(fleet, attach=attach, on_change=say)
        roster.follow(entries)
        stack.enter_context(reload_on_hangup(fleet, roster, streams, defaults))
        reset = partial(fleet.request, partial(reset_streams, fleet))
        save = partial(fleet.request, partial(save_streams, fleet))
        stack.enter_context(call_on_signals({signal.SIGUSR1: reset, signal.SIGUSR2: save}))
        say(f"{server.url} shows {len(entries)} streams on {fleet.stream.execution}")
        for done in fleet:
            try:
                server.offer(shown[fleet[done.stream]], done.frame, done.result.labels)
            except Exception as error:  # whatever it is, the other streams go on
                fleet.remove(done.stream, domain_error(error, ServeError))
    return 128 + request.signal if request.signal else 0


def find_token(path: Path | None) -> str | None:
    """The token of the file or of the environment; a command line could be seen by others."""
    from streamseg.serving.access import read_token

    return os.environ.get(TOKEN_VARIABLE) or None if path is None else read_token(path)


def require_server() -> None:
    """Raise ServeError where the extra is not installed."""
    for module in REQUIRED:
        if importlib.util.find_spec(module) is None:
            raise ServeError(f"{module} is not installed. Run: pip install 'streamseg[serve]'")

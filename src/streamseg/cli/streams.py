"""What the sub-commands share that run many streams."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from streamseg.cli.policy_options import PolicyArguments
from streamseg.cli.source_options import SourceArguments

if TYPE_CHECKING:
    from streamseg.runtime.loop.fleet import Fleet
    from streamseg.runtime.loop.roster import Roster, StreamEntry

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)

streams_option = click.option(
    "--streams",
    type=click.Path(path_type=Path),
    help="List of streams (TOML), read again on SIGHUP.",
)


def default_entry(
    source: SourceArguments,
    state: PolicyArguments,
    outputs: Mapping[str, Path | None] | None = None,
) -> StreamEntry:
    """What the options say of every stream."""
    from streamseg.runtime.loop.roster import StreamEntry

    # One camera that is not there yet must not keep the others waiting.
    options = replace(source.options(), decode_threads=1, await_source=True)
    return StreamEntry(
        name="",
        source="",
        options=options,
        policy=state.policy(),
        snapshot=None if state.snapshot is None else str(state.snapshot),
        snapshot_every=state.snapshot_every,
        resume=None if state.resume is None else str(state.resume),
        outputs={kind: str(path) for kind, path in (outputs or {}).items() if path is not None},
        when_behind=source.when_behind,
        max_latency=source.max_latency,
    )


def list_entries(
    source: SourceArguments, streams: Path | None, defaults: StreamEntry
) -> dict[str, StreamEntry]:
    """The streams that ``--source`` or ``--streams`` name; sources are ``[NAME=]ADDRESS``."""
    from streamseg.runtime.loop.roster import check_outputs, read_streams

    if bool(source.uris) == (streams is not None):
        raise click.UsageError("give either --source, as often as you like, or --streams")
    if streams is not None:
        return read_streams(streams, defaults)
    entries: dict[str, StreamEntry] = {}
    for number, text in enumerate(source.uris, 1):
        match = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, address = (match[1], match[2]) if match else (f"stream{number}", text)
        if name in entries:
            raise click.UsageError(f"two sources are called '{name}'; choose other names")
        entries[name] = replace(defaults, name=name, source=address)
    check_outputs(entries)
    return entries


def reset_streams(fleet: Fleet) -> None:
    """Ask every stream to forget its state."""
    for name in fleet.names:
        with suppress(KeyError):  # it may leave meanwhile
            fleet[name].session.request_reset("signal SIGUSR1")


def save_streams(fleet: Fleet) -> None:
    """Ask every stream to write its state to its file."""
    for name in fleet.names:
        with suppress(KeyError):
            fleet[name].session.request_snapshot()


@contextmanager
def reload_on_hangup(
    fleet: Fleet, roster: Roster, streams: Path | None, defaults: StreamEntry
) -> Iterator[None]:
    """While inside, SIGHUP makes the roster read its file again."""
    if streams is None:
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        fleet.request(lambda: roster.reload(streams, defaults))

    previous = signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)

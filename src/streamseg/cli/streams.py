"""What the sub-commands share that run many streams."""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.destinations import JSON_LINES
from streamseg.runtime.loop.decoding import Pacing
from streamseg.runtime.loop.fleet import Fleet
from streamseg.runtime.loop.roster import Roster, StreamEntry, check_outputs, read_streams
from streamseg.runtime.session.adaptation import Adaptation
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.snapshots import SnapshotPlan
from streamseg.runtime.sinks.mqtt import MqttOptions, MqttPublisher, open_publisher
from streamseg.runtime.sources import SourceOptions

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class StreamArguments:
    """What ``run`` and ``serve`` are asked to stream, and how."""

    sources: tuple[str, ...]
    listed: Path | None
    reading: SourceOptions
    pacing: Pacing
    policy: StatePolicy
    adaptation: Adaptation
    plan: SnapshotPlan
    publishing: MqttOptions

    @property
    def state_policy(self) -> StatePolicy:
        """The policy with its adaptation."""
        return replace(self.policy, adaptation=self.adaptation)

    def publish(self, stack: ExitStack) -> MqttPublisher | None:
        """Begin to publish where that was asked for; ``stack`` ends it.

        Raises:
            SinkError: paho-mqtt is not installed.
        """
        publisher = open_publisher(self.publishing)
        return None if publisher is None else stack.enter_context(publisher)

    def defaults(self, outputs: Mapping[str, Path] | None = None) -> StreamEntry:
        """What the options say of every stream."""
        # One camera that is not there yet must not keep the others waiting.
        threads = self.reading.decode_threads or 1
        return StreamEntry(
            name="",
            source="",
            options=replace(self.reading, decode_threads=threads, await_source=True),
            policy=self.state_policy,
            pacing=self.pacing,
            plan=self.plan,
            outputs={kind: str(path) for kind, path in (outputs or {}).items()},
        )

    def entries(self, defaults: StreamEntry) -> dict[str, StreamEntry]:
        """The streams that the sources or the list name; sources are ``[NAME=]ADDRESS``."""
        if bool(self.sources) == (self.listed is not None):
            raise click.UsageError("expected one or more SOURCEs, or --streams with a list of them")
        if self.listed is not None:
            return read_streams(self.listed, defaults)
        entries: dict[str, StreamEntry] = {}
        for number, text in enumerate(self.sources, 1):
            match = None if Path(text).exists() else _NAMED.fullmatch(text)
            name, address = (match[1], match[2]) if match else (f"stream{number}", text)
            if name in entries:
                raise click.UsageError(f"two sources are called '{name}'; choose other names")
            entries[name] = replace(defaults, name=name, source=address)
        check_outputs(entries)
        return entries


def stream_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command SOURCE and the options of streams as one argument ``streams``."""

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        names = (entry.name for entry in fields(StreamArguments))
        streams = StreamArguments(**{name: given.pop(name) for name in names})
        return function(*args, streams=streams, **given)

    decorators = (
        click.argument("sources", nargs=-1, metavar="[SOURCE]..."),
        grouped(
            "--streams",
            "listed",
            type=PLACE,
            help="List of streams (TOML) instead of SOURCEs; read again on SIGHUP.",
        ),
        dataclass_options(SourceOptions, "reading", "Source", common=("fps", "loop")),
        dataclass_options(Pacing, "pacing", "Source"),
        dataclass_options(StatePolicy, "policy", "State"),
        dataclass_options(Adaptation, "adaptation", "Adaptation"),
        dataclass_options(SnapshotPlan, "plan", "State"),
        dataclass_options(MqttOptions, "publishing", "Output"),
        grouped(
            "--events",
            type=OutputType(JSON_LINES),
            group="State",
            help="JSON Lines file to which events are added; '-' is standard output.",
        ),
    )
    for decorator in reversed(decorators):
        call = decorator(call)
    return call


def reset_streams(fleet: Fleet) -> None:
    """Request a reset of every stream."""
    for name in fleet.names:
        with suppress(KeyError):  # it may leave meanwhile
            fleet[name].session.request_reset("signal SIGUSR1")


def save_streams(fleet: Fleet) -> None:
    """Request a snapshot of every stream."""
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

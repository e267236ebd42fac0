"""The file that lists a fleet's streams, and keeping a fleet in step with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from streamseg.errors import SourceError, StreamsegError, raised_as
from streamseg.files import STDOUT
from streamseg.option_fields import option_fields, read_destination, read_value
from streamseg.runtime.loop.decoding import Pacing
from streamseg.runtime.loop.fleet import NAME, OPTIONS, Attachment, Fleet
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.snapshots import SnapshotPlan
from streamseg.runtime.sinks.outputs import WRITTEN as OUTPUTS
from streamseg.runtime.sources import SourceOptions, parse_source, require_kept

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamEntry:
    """A stream of the list.

    Attributes:
        name: of the stream.
        source: its address.
        options: how to read it.
        policy: when its state is reset.
        pacing: what happens where it is slower than its source.
        outputs: kind (one of ``OUTPUTS``) -> file or folder.
        plan: files of its state.

    In files and folders ``{stream}`` stands for the name.
    """

    name: str
    source: str
    options: SourceOptions = OPTIONS
    policy: StatePolicy = field(default_factory=StatePolicy)
    pacing: Pacing = field(default_factory=Pacing)
    outputs: Mapping[str, str] = field(default_factory=dict)
    plan: SnapshotPlan = field(default_factory=SnapshotPlan)

    def _place(self, text: str | Path) -> Path:
        return Path(str(text).replace("{stream}", self.name))

    @property
    def paths(self) -> dict[str, Path]:
        """Where its outputs go."""
        return {kind: self._place(text) for kind, text in self.outputs.items()}

    @property
    def places(self) -> dict[str, Path]:
        """All that it writes: its outputs, and the snapshot."""
        snapshot = self.snapshots.snapshot
        return {**self.paths, **({} if snapshot is None else {"snapshot": snapshot})}

    @property
    def snapshots(self) -> SnapshotPlan:
        """``plan`` with the name put in."""
        snapshot, resume = (
            None if path is None else self._place(path)
            for path in (self.plan.snapshot, self.plan.resume)
        )
        return replace(self.plan, snapshot=snapshot, resume=resume)


# Field of StreamEntry -> the dataclass whose options are keys of the list.
_PARTS: dict[str, type] = {
    "options": SourceOptions,
    "policy": StatePolicy,
    "pacing": Pacing,
    "plan": SnapshotPlan,
}
_KEYS = {
    entry.flag: (part, entry) for part, owner in _PARTS.items() for entry in option_fields(owner)
}
_TEXTS = ("source", *OUTPUTS)
_REMOVED = {"max-latency-ms": "max-latency, in seconds"}


def read_streams(path: Path, defaults: StreamEntry | None = None) -> dict[str, StreamEntry]:
    """Read a list of streams.

    Args:
        path: TOML: a table ``[streams.NAME]`` for each stream with at least ``source``, and perhaps
            ``[defaults]`` for all. Keys are the options of ``SourceOptions``, ``StatePolicy``,
            ``Pacing`` and ``SnapshotPlan``, and the outputs, with ``-`` or ``_``.
        defaults: what holds where the file says nothing; its name and source do not count.
    Raises:
        SourceError: unreadable, no TOML, an unknown key, or a value that does not fit.
    """
    with raised_as(SourceError, f"the list of streams {path}"):
        return _parse_streams(path, defaults or StreamEntry(name="", source=""))


def _parse_streams(path: Path, start: StreamEntry) -> dict[str, StreamEntry]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read the streams in {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"{path} is not valid TOML: {error}") from None
    unknown = sorted(set(content) - {"defaults", "streams"})
    if unknown:
        raise SourceError(f"{path}: unknown table '{unknown[0]}'; expected defaults and streams")
    base = _read_table(content.get("defaults", {}), f"{path}: [defaults]")
    if "source" in base:
        raise SourceError(f"{path}: [defaults] cannot have a source; every stream has its own")
    streams = content.get("streams", {})
    if not isinstance(streams, dict):
        raise SourceError(f"{path}: 'streams' is not a table; expected [streams.NAME] for each")
    entries = {
        name: _make_entry(name, base, table, f"{path}: [streams.{name}]", start)
        for name, table in streams.items()
    }
    check_outputs(entries, f"{path}: ")
    return entries


def check_outputs(entries: Mapping[str, StreamEntry], where: str = "") -> None:
    """Raise SourceError where streams would write to the same place, or over what one reads."""
    owners: dict[Path, str] = {}
    places = [place for entry in entries.values() for place in entry.places.values()]
    for entry in entries.values():
        require_kept(entry.source, places, where)
        for kind, place in entry.places.items():
            other = owners.setdefault(place.absolute(), entry.name)
            if other != entry.name:
                raise SourceError(
                    f"{where}streams '{other}' and '{entry.name}' both write {kind} to "
                    f"{_describe_shared(kind, place)}"
                )


def _describe_shared(kind: str, place: Path) -> str:
    """A place that two streams write to, and what to write instead."""
    if place == STDOUT:
        return f"standard output; name a file for each, such as {kind}-{{stream}}.jsonl"
    return f"{place}; put {{stream}} into the name"


def _read_table(table: object, where: str) -> dict[str, Any]:
    """The keys of a table, with ``-``, each value of its kind."""
    if not isinstance(table, dict):
        raise SourceError(f"{where} is not a table")
    known: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name in known:
            raise SourceError(f"{where}: {key} is given twice; leave one out")
        known[name] = _read_key(name, value, f"{where}: {key}", where)
    return known


def _read_key(name: str, value: object, place: str, where: str) -> object:
    if name in _KEYS:
        return read_value(_KEYS[name][1], value, place, SourceError)
    if name in _REMOVED:
        raise SourceError(f"{where}: '{name}' was removed; use {_REMOVED[name]}")
    if name not in _TEXTS:
        known = ", ".join(sorted({*_TEXTS, *_KEYS}))
        raise SourceError(f"{where}: unknown key '{name}'; known: {known}")
    if not isinstance(value, str):
        raise SourceError(f"{place} is not a text")
    if name in OUTPUTS:
        read_destination(OUTPUTS[name], value, place, SourceError)
    return value


def _make_entry(
    name: str, base: Mapping[str, Any], table: object, where: str, start: StreamEntry
) -> StreamEntry:
    if not NAME.fullmatch(name):
        raise SourceError(
            f"{where}: a name is up to 64 letters, digits and . _ -, a letter or digit first"
        )
    given = {**base, **_read_table(table, where)}
    if not given.get("source"):
        raise SourceError(f"{where} has no source")
    outputs = {**start.outputs, **{kind: given[kind] for kind in OUTPUTS if kind in given}}
    try:
        parts = {
            part: replace(
                getattr(start, part),
                **{_KEYS[key][1].name: given[key] for key in given if _belongs(key, part)},
            )
            for part in _PARTS
        }
        parse_source(given["source"], parts["options"])
    except StreamsegError as error:
        raise SourceError(f"{where}: {error}") from None
    return replace(start, name=name, source=given["source"], outputs=outputs, **parts)


def _belongs(key: str, part: str) -> bool:
    return key in _KEYS and _KEYS[key][0] == part


class Roster:
    """Keeps the streams of a fleet those of a list; call it in the thread that iterates the fleet.

    Args:
        fleet: gets and loses streams.
        attach: gives the outputs and hooks of every stream that joins.
        on_change: called with a sentence for every change of the list.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        attach: Callable[[StreamEntry], Attachment] = lambda _entry: Attachment(),
        on_change: Callable[[str], None] = logger.info,
    ) -> None:
        self._fleet, self._attach, self._on_change = fleet, attach, on_change
        self._entries: dict[str, StreamEntry] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the streams that are listed."""
        return tuple(self._entries)

    def follow(self, entries: Mapping[str, StreamEntry], *, strict: bool = True) -> None:
        """Remove streams that are no longer listed or have changed, and add those that are new.

        A stream that failed is tried again; one that came to its end is not.

        Args:
            entries: by name.
            strict: raise where a stream cannot join; otherwise report it and continue with the
                others.
        Raises:
            StreamsegError: an output of a stream cannot be made.
        """
        gone = [name for name, entry in self._entries.items() if entries.get(name) != entry]
        for name in gone:
            self._fleet.failed.discard(name)
            if name in self._fleet.names:
                self._fleet.remove(name)
        failed = {name for name in entries if name in self._fleet.failed}
        fresh = [
            entry
            for name, entry in entries.items()
            if self._entries.get(name) != entry or name in failed
        ]
        self._entries = dict(entries)
        for entry in fresh:
            try:
                self._join(entry)
            except StreamsegError as error:
                if self._fleet.stopped:  # while the bundle was opened, say
                    return
                if strict:
                    raise
                del self._entries[entry.name]
                self._on_change(f"stream '{entry.name}' cannot join: {error}")
        if strict:
            return
        if gone or fresh:
            joined = ", ".join(entry.name for entry in fresh) or "none"
            self._on_change(f"streams that left: {', '.join(gone) or 'none'}; joined: {joined}")
        else:
            self._on_change("the list of streams is unchanged")

    def _join(self, entry: StreamEntry) -> None:
        self._fleet.add(
            entry.name,
            entry.source,
            options=entry.options,
            policy=entry.policy,
            pacing=entry.pacing,
            snapshots=entry.snapshots,
            attachment=self._attach(entry),
        )

    def reload(self, path: Path, defaults: StreamEntry | None = None) -> None:
        """Follow a file; an invalid file is logged and ignored."""
        try:
            entries = read_streams(path, defaults)
        except SourceError as error:
            self._on_change(f"the list was not changed: {error}")
            return
        self.follow(entries, strict=False)

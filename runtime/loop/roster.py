"""The file that lists a fleet's streams, and keeping a fleet in step with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from streamseg.errors import SourceError, StreamsegError, raised_as
from streamseg.runtime.loop.decoding import WhenBehind
from streamseg.runtime.loop.fleet import NAME, OPTIONS, Attachment, Fleet, SnapshotPlan
from streamseg.runtime.session.policy import StatePolicy
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
        when_behind: ``drop``, ``wait``, or None to let the source decide.
        max_latency: seconds after which labels count as late; None: never.
        outputs: kind (one of ``OUTPUTS``) -> file or folder.
        snapshot: file for its state.
        snapshot_every: frames between two snapshots; None writes one at the end.
        resume: file of the snapshot to go on from; the file of ``snapshot`` may be missing.

    In files and folders ``{stream}`` stands for the name.
    """

    name: str
    source: str
    options: SourceOptions = OPTIONS
    policy: StatePolicy = field(default_factory=StatePolicy)
    when_behind: WhenBehind | None = None
    max_latency: float | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    snapshot: str | None = None
    snapshot_every: int | None = None
    resume: str | None = None

    def _place(self, text: str) -> Path:
        return Path(text.replace("{stream}", self.name))

    @property
    def paths(self) -> dict[str, Path]:
        """Where its outputs go."""
        return {kind: self._place(text) for kind, text in self.outputs.items()}

    @property
    def places(self) -> dict[str, Path]:
        """All that it writes: its outputs, and the snapshot."""
        return {**self.paths, **({} if self.snapshot is None else {"snapshot": self._snapshot})}

    @property
    def _snapshot(self) -> Path:
        assert self.snapshot is not None
        return self._place(self.snapshot)

    @property
    def snapshots(self) -> SnapshotPlan:
        """Where its state goes and comes from, as of now."""
        resume = None if self.resume is None else self._place(self.resume)
        if resume is not None and self.resume == self.snapshot and not resume.exists():
            resume = None
        path = None if self.snapshot is None else self._snapshot
        return SnapshotPlan(path=path, every=self.snapshot_every, resume=resume)


OUTPUTS = ("out", "labels", "confidence", "areas", "sheet")
_OPTION_KINDS = {entry.name: str(entry.type) for entry in fields(SourceOptions)}
_POLICY_KINDS = {entry.name: str(entry.type) for entry in fields(StatePolicy)}
_STATE = {"snapshot": "str", "snapshot_every": "int", "resume": "str"}
_OWN = {"source": "str", "when_behind": "str", "max_latency_ms": "float", **_STATE}
_KINDS = {**_OWN, **dict.fromkeys(OUTPUTS, "str"), **_OPTION_KINDS, **_POLICY_KINDS}
_EXPECTED = {"str": "a text", "float": "a number", "int": "a whole number", "bool": "true or false"}


def read_streams(path: Path, defaults: StreamEntry | None = None) -> dict[str, StreamEntry]:
    """Read a list of streams.

    Args:
        path: TOML: a table ``[streams.NAME]`` for each stream with at least ``source``, and perhaps
            ``[defaults]`` for all. Keys are those of ``StreamEntry``, ``SourceOptions`` and
            ``StatePolicy``, with ``-`` or ``_``; latency is ``max-latency-ms``.
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
        raise SourceError(f"{path} is no TOML: {error}") from None
    unknown = sorted(set(content) - {"defaults", "streams"})
    if unknown:
        raise SourceError(f"{path}: unknown table '{unknown[0]}'; expected defaults and streams")
    base = _read_table(content.get("defaults", {}), f"{path}: [defaults]")
    if "source" in base:
        raise SourceError(f"{path}: [defaults] cannot have a source; every stream has its own")
    streams = content.get("streams", {})
    if not isinstance(streams, dict):
        raise SourceError(f"{path}: 'streams' is no table; expected [streams.NAME] for each")
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
                    f"{where}streams '{other}' and '{entry.name}' both write {kind} to {place}; "
                    "put {stream} into the name"
                )


def _read_table(table: object, where: str) -> dict[str, Any]:
    """The keys of a table, with ``_``, each value of its kind."""
    if not isinstance(table, dict):
        raise SourceError(f"{where} is no table")
    known = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in _KINDS:
            raise SourceError(
                f"{where}: unknown key '{key}'; these are known: {', '.join(sorted(_KINDS))}"
            )
        if name in known:
            raise SourceError(f"{where}: {key} is given twice; leave one out")
        known[name] = _read_value(value, _KINDS[name], f"{where}: {key}")
    return known


def _read_value(value: object, kind: str, where: str) -> object:
    kind = kind.split()[0]
    good: dict[str, Callable[[], bool]] = {
        "bool": lambda: isinstance(value, bool),
        "int": lambda: isinstance(value, int) and not isinstance(value, bool),
        "float": lambda: isinstance(value, (int, float)) and not isinstance(value, bool),
    }
    if not good.get(kind, lambda: isinstance(value, str))():
        expected = _EXPECTED.get(kind, "a text")
        raise SourceError(f"{where} is not {expected}")
    return float(value) if kind == "float" else value  # type: ignore[arg-type]


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
    if given.get("when_behind", "drop") not in ("drop", "wait"):
        raise SourceError(f"{where}: when-behind is neither drop nor wait")
    plain = ("source", "when_behind", *_STATE)
    changes: dict[str, Any] = {key: given[key] for key in plain if key in given}
    changes["outputs"] = {**start.outputs, **{key: given[key] for key in OUTPUTS if key in given}}
    every = changes.get("snapshot_every", start.snapshot_every)
    if every is not None and (every < 1 or changes.get("snapshot", start.snapshot) is None):
        raise SourceError(f"{where}: snapshot-every expects 1 or more frames, and a snapshot")
    if "max_latency_ms" in given:
        if not given["max_latency_ms"] > 0:
            raise SourceError(f"{where}: max-latency-ms is not above 0")
        changes["max_latency"] = given["max_latency_ms"] / 1e3
    try:
        options = replace(start.options, **_part(given, _OPTION_KINDS))
        policy = replace(start.policy, **_part(given, _POLICY_KINDS))
        parse_source(given["source"], options)
    except StreamsegError as error:
        raise SourceError(f"{where}: {error}") from None
    return replace(start, name=name, options=options, policy=policy, **changes)


def _part(given: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in kinds}


class Roster:
    """Keeps the streams of a fleet those of a list; call it in the thread that iterates the fleet.

    Args:
        fleet: gets and loses streams.
        attach: gives the outputs and hooks of every stream that joins.
        on_change: told of every change of the list, in words.
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
        """Let streams leave that are no longer listed or changed, and those join that are new.

        A stream that failed is tried again; one that came to its end is not.

        Args:
            entries: by name.
            strict: raise where a stream cannot join; otherwise tell, and go on with the others.
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
            self._on_change("the list of streams did not change")

    def _join(self, entry: StreamEntry) -> None:
        self._fleet.add(
            entry.name,
            entry.source,
            options=entry.options,
            policy=entry.policy,
            when_behind=entry.when_behind,
            max_latency=entry.max_latency,
            snapshots=entry.snapshots,
            attachment=self._attach(entry),
        )

    def reload(self, path: Path, defaults: StreamEntry | None = None) -> None:
        """Follow a file; a bad one changes nothing and is told."""
        try:
            entries = read_streams(path, defaults)
        except SourceError as error:
            self._on_change(f"the running streams stay as they are: {error}")
            return
        self.follow(entries, strict=False)

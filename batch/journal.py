"""The journal: what was begun, done and given up, one JSON line each, on disk before it counts."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from streamseg.errors import BatchError

Kind = Literal["begun", "done", "crashed", "failed", "set aside"]


@dataclass
class JournalEntry:
    """What the journal knows of a task.

    Attributes:
        identity: of the task that this is about; another identity under the key starts afresh.
        kind: the last thing that happened.
        crashes: workers that died on it.
        reason: of the last crash or failure.
    """

    identity: str
    kind: Kind = "begun"
    crashes: int = 0
    reason: str = ""


class Journal:
    """An append-only file that one batch at a time may write.

    Args:
        path: of the file; its folder is made.

    Raises:
        BatchError: another batch has it open, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, JournalEntry] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise BatchError(f"cannot write journal {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise BatchError(
                f"another batch is writing {path}; wait for it, or give each batch its own "
                "--shard i/N"
            ) from None
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        for line in content.splitlines():
            try:
                fields = json.loads(line)
                self._apply(fields["key"], fields["identity"], fields["kind"], fields["reason"])
            except (ValueError, KeyError, TypeError, RecursionError):
                # A line cut short by a crash; what it said is done again.
                continue
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")

    def _apply(self, key: str, identity: str, kind: Kind, reason: str) -> None:
        entry = self.entries.get(key)
        if entry is None or entry.identity != identity:
            entry = self.entries[key] = JournalEntry(identity)
        if kind == "begun" and entry.kind == "set aside":
            entry.crashes = 0  # tried again on request
        entry.kind = kind
        entry.crashes += kind == "crashed"
        if kind == "done":
            entry.crashes = 0
        entry.reason = reason or entry.reason

    def record(self, kind: Kind, key: str, identity: str, reason: str = "", **more: Any) -> None:
        """Append a line; it is on disk when this returns.

        Raises:
            BatchError: the disk is full, or the file cannot be written for another reason.
        """
        fields = {"time": round(time.time(), 3), "kind": kind, "key": key, "identity": identity}
        line = json.dumps({**fields, "reason": reason, **more}) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise BatchError(f"cannot write journal {self.path}: {error.strerror}") from None
        self._apply(key, identity, kind, reason)

    def find(self, key: str, identity: str) -> JournalEntry | None:
        """What is known of a task; ``None`` for one never seen, or with another identity."""
        entry = self.entries.get(key)
        return entry if entry is not None and entry.identity == identity else None

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

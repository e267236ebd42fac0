"""A session's state in a file: safetensors with a header that says what it is."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.destinations import FILE
from streamseg.errors import StateMismatch, StreamsegError
from streamseg.files import whole_file
from streamseg.option_fields import check_options, option
from streamseg.runtime.bundle.state import StateSnapshot, StateSpec, state_bytes
from streamseg.runtime.session.cuts import THUMBNAIL as SIZE
from streamseg.runtime.video.resize import Image, Size

FORMAT = "streamseg-state-1"
MOST_NUMBERS = 64
HEADER_BYTES = 1 << 20  # more than header and thumbnail ever need
THUMBNAIL, SCORES, INTERVALS = "policy.thumbnail", "policy.scores", "policy.intervals"
SHAPE = (*SIZE, 3)
STATE = "state."


@dataclass(frozen=True, kw_only=True)
class SnapshotPlan:
    """Where a stream's state is written to and read from.

    Attributes:
        snapshot: file for snapshots; written at the end, and on request.
        snapshot_every: frames between two snapshots; None writes only those.
        resume: snapshot to resume from. The file of ``snapshot`` may be missing.

    Raises:
        StreamsegError: ``snapshot_every`` is not positive, or has no file.
    """

    snapshot: Path | None = option(
        "Snapshot of the state: written at the end, and on SIGUSR2.", default=None, written=FILE
    )
    snapshot_every: int | None = option(
        "Also write the snapshot every N frames.", default=None, low=1, metavar="N"
    )
    resume: Path | None = option(
        "Resume from a snapshot. Start fresh if it is missing and also the file of --snapshot.",
        default=None,
    )

    def __post_init__(self) -> None:
        check_options(self, StreamsegError)
        if self.snapshot_every is not None and self.snapshot is None:
            raise StreamsegError("snapshot_every needs a file: set snapshot as well")

    @property
    def found(self) -> Path | None:
        """The snapshot to resume from; None for a fresh start."""
        fresh = self.resume == self.snapshot and self.resume and not self.resume.exists()
        return None if fresh else self.resume


@dataclass(frozen=True)
class Position:
    """Where in its source a stream is: index, seconds and (height, width) of the last frame."""

    index: int
    timestamp: float
    size: Size


@dataclass(frozen=True)
class SessionSnapshot:
    """Everything that a session's next result depends on.

    Attributes:
        state: tensors and step counter of the stream.
        position: the last frame's.
        thumbnail: what the scene cut detector keeps of the last frame.
        scores: what it keeps of the frames before.
        intervals: the last times between frames, seconds, for the detector of gaps.
    """

    state: StateSnapshot
    position: Position
    thumbnail: Image | None = None
    scores: tuple[float, ...] = ()
    intervals: tuple[float, ...] = ()


def write_snapshot(path: str | os.PathLike[str], snapshot: SessionSnapshot) -> None:
    """Write a file that ``read_snapshot`` reads; completely or not at all, even if power fails.

    Raises:
        StreamsegError: the place cannot be written.
    """
    from safetensors.numpy import save

    tensors = {STATE + name: value for name, value in snapshot.state.tensors.items()}
    if snapshot.thumbnail is not None:
        tensors[THUMBNAIL] = snapshot.thumbnail
    tensors[SCORES] = np.array(snapshot.scores, np.float64)
    tensors[INTERVALS] = np.array(snapshot.intervals, np.float64)
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    position = snapshot.position
    fields = {
        "format": FORMAT,
        "model": snapshot.state.model,
        "step": str(snapshot.state.step),
        "index": str(position.index),
        "timestamp": repr(position.timestamp),
        "size": f"{position.size[0]}x{position.size[1]}",
    }
    fields["sha256"] = content_digest(fields, tensors)
    with whole_file(Path(path), StreamsegError) as draft:
        draft.write_bytes(save(tensors, fields))


def content_digest(
    fields: Mapping[str, str], tensors: Mapping[str, npt.NDArray[np.generic]]
) -> str:
    """SHA-256 over the header's fields and every tensor's name, dtype, shape and bytes."""
    total = hashlib.sha256()
    total.update(json.dumps({**fields, "sha256": ""}, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        total.update(json.dumps([name, value.dtype.str, list(value.shape)]).encode())
        total.update(np.ascontiguousarray(value).data)
    return total.hexdigest()


def read_snapshot(
    path: str | os.PathLike[str], table: tuple[StateSpec, ...], model: str
) -> SessionSnapshot:
    """Read and verify a snapshot of the bundle ``model`` with state table ``table``.

    Raises:
        StateMismatch: no such file, damaged or cut short, of another model, or tensors that do
            not fit the table.
    """
    file = Path(path)
    limit = state_bytes(table) + HEADER_BYTES
    try:
        size = file.stat().st_size if file.is_file() else None
    except OSError as error:
        raise StateMismatch(f"cannot read state {file}: {error.strerror}") from None
    if size is None:
        raise StateMismatch(f"no such state file: {file}; a run with --snapshot writes one")
    if size > limit:
        raise StateMismatch(
            f"{file} has {size} bytes, a state of this bundle has at most {limit}: it is not a "
            "state file, or one of another bundle"
        )
    try:
        fields, tensors = _read(file)
        snapshot = _parse(fields, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # What a file of others holds may show up in the message: no line breaks, no control codes.
        shown = "".join(c if c.isprintable() else " " for c in str(error))[:200]
        raise StateMismatch(
            f"{file} is not a streamseg state file, or is damaged: {shown}"
        ) from None
    try:
        snapshot.state.check(table, model)
    except StateMismatch as error:
        raise StateMismatch(f"{file}: {error}") from None
    return snapshot


def _read(file: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[np.generic]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            fields: dict[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from None
    return fields, tensors


def _parse(fields: dict[str, str], tensors: dict[str, Any]) -> SessionSnapshot:
    if fields.get("format") != FORMAT:
        raise ValueError(f"its format is {fields.get('format')!r}, expected {FORMAT!r}")
    if not re.fullmatch("[0-9a-f]{64}", fields["model"]):
        raise ValueError("its model is not a SHA-256")
    if fields["sha256"] != content_digest(fields, tensors):
        raise ValueError("its content does not have the SHA-256 that its header promises")
    thumbnail = tensors.pop(THUMBNAIL, None)
    if thumbnail is not None and (thumbnail.shape, thumbnail.dtype) != (SHAPE, np.uint8):
        raise ValueError(f"'{THUMBNAIL}' is {thumbnail.dtype} {list(thumbnail.shape)}")
    scores, intervals = _pop_series(tensors, SCORES), _pop_series(tensors, INTERVALS)
    height, width = fields["size"].split("x")
    position = Position(int(fields["index"]), float(fields["timestamp"]), (int(height), int(width)))
    if position.index < 0 or not math.isfinite(position.timestamp) or min(position.size) < 1:
        raise ValueError(f"its last frame is {position}")
    state = {name.removeprefix(STATE): value for name, value in tensors.items()}
    return SessionSnapshot(
        StateSnapshot(int(fields["step"]), state, fields["model"]),
        position,
        thumbnail,
        scores,
        intervals,
    )


def _pop_series(tensors: dict[str, Any], name: str) -> tuple[float, ...]:
    """Take out a tensor of a few finite numbers."""
    values = tensors.pop(name)
    if values.dtype != np.float64 or values.ndim != 1 or len(values) > MOST_NUMBERS:
        raise ValueError(f"'{name}' is {values.dtype} {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"'{name}' holds numbers that are not finite")
    return tuple(values.tolist())

"""What every output takes, and how outputs fail."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamseg.errors import SinkError
from streamseg.files import describe_failure, make_folder
from streamseg.runtime.video.resize import Image


@dataclass(frozen=True)
class SegmentedFrame:
    """A frame with its result, as sinks get it; the arrays are reused after ``write`` returns.

    Attributes:
        picture: (height, width, 3) uint8 RGB, the frame with classes laid over it.
        labels: (height, width) uint8 class ids, 255 = none.
        index: of the frame in its source.
        timestamp: seconds, from the source.
        confidence: (height, width) uint8, 255 times the probability of the label; only where a
            sink of the run needs it.
    """

    picture: Image
    labels: Image
    index: int
    timestamp: float
    confidence: Image | None = None


class Sink(Protocol):
    """An output. Making one proves that the place can be written, before any work is done.

    Exactly one of ``finish`` and ``discard`` ends it; later calls of either do nothing.

    Attributes:
        needs_picture: ``write`` uses ``picture``; where no sink does, no picture is drawn.
        needs_confidence: ``write`` uses ``confidence``.
    """

    needs_picture: bool
    needs_confidence: bool

    @property
    def path(self) -> Path:
        """File or folder that it writes."""

    def write(self, frame: SegmentedFrame) -> None:
        """Add a frame. Raises SinkError."""

    def finish(self) -> str:
        """Complete the output and report in a few words what it holds. Raises SinkError."""

    def discard(self) -> None:
        """Remove what is incomplete; earlier content at the path stays as it was."""


def make_parent(path: Path) -> None:
    """Make the folder that is to hold ``path``.

    Raises:
        SinkError: it cannot be made.
    """
    make_folder(path.parent, SinkError)


def reserve_draft(path: Path) -> Path:
    """Make an empty file beside ``path``, to be renamed to it when complete.

    Raises:
        SinkError: ``path`` is a folder, or its folder cannot be made or written.
    """
    if path.is_dir():
        raise SinkError(f"cannot write {path}: it is a folder; give the name of a file")
    make_parent(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.touch(exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}") from None
    return draft


def write_failure(path: Path, error: Exception) -> SinkError:
    """The error for a failed write."""
    return SinkError(describe_failure(path, error))

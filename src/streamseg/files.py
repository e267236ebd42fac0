"""Places to write, and files that are either whole or as they were."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamseg.errors import StreamsegError


def describe_failure(path: Path, error: Exception) -> str:
    """Why ``path`` was not written, with the free space, which may be the cause."""
    reason = getattr(error, "strerror", None) or str(error)
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return f"cannot write {path}: {reason}"
    return (
        f"cannot write {path}: {reason} ({free / 2**20:.1f} MiB free there); "
        "make room or choose another place"
    )


def make_folder(folder: Path, failure: type[StreamsegError]) -> None:
    """Make a folder and those above it.

    Raises:
        failure: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure(f"cannot make the folder {folder}: {error.strerror}") from None


def check_place(path: Path, failure: type[StreamsegError]) -> None:
    """Prove that a file can be written there, before any work is done; makes its folder.

    Raises:
        failure: it cannot.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device"
        raise failure(f"cannot write {path}: it is {kind}; name a file")
    make_folder(path.parent, failure)
    draft = _draft_of(path)
    try:
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise failure(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def whole_file(path: Path, failure: type[StreamsegError]) -> Iterator[Path]:
    """Give a path beside ``path`` to write; on success it becomes ``path``, else it vanishes.

    Holds even if power fails.

    Raises:
        failure: writing ended in an OSError.
    """
    draft = _draft_of(path)
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise failure(describe_failure(path, error)) from error
    finally:
        draft.unlink(missing_ok=True)


def _draft_of(path: Path) -> Path:
    # Always the same name: what a killed process left is written over.
    return path.with_name(f".{path.name}.part")

"""Places to write, and files and folders that are either complete or unchanged."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from streamseg.errors import StreamsegError

STDOUT = Path("-")


def describe_failure(path: Path, error: Exception) -> str:
    """Why ``path`` was not written, with the free space, which may be the cause."""
    reason = getattr(error, "strerror", None) or str(error)
    if path == STDOUT:
        return f"cannot write to standard output: {reason}"
    if is_device(path):
        return f"cannot write {path}: {reason}"
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return f"cannot write {path}: {reason}"
    return (
        f"cannot write {path}: {reason} ({free / 2**20:.1f} MiB free there); "
        "make room or choose another place"
    )


def is_device(path: Path) -> bool:
    """Whether a path is there and is neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def make_folder(folder: Path, failure: type[StreamsegError]) -> None:
    """Make a folder and those above it.

    Raises:
        failure: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        kind = "a device" if is_device(folder) else "a file"
        raise failure(f"cannot make the folder {folder}: it is {kind}") from None
    except OSError as error:
        raise failure(f"cannot make the folder {folder}: {error.strerror}") from None


def check_place(path: Path, failure: type[StreamsegError]) -> None:
    """Check that a file can be written there, before any work is done; makes its folder.

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
    """Yield a path beside ``path`` to write; on success it becomes ``path``, else it is removed.

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
        _sync(path.parent)
    except OSError as error:
        raise failure(describe_failure(path, error)) from error
    finally:
        with suppress(OSError):  # such as a file instead of the folder
            draft.unlink(missing_ok=True)


def _draft_of(path: Path) -> Path:
    # Always the same name: what a killed process left is overwritten.
    return path.with_name(f".{path.name}.part")


@contextmanager
def whole_folder(path: Path, failure: type[StreamsegError]) -> Iterator[Path]:
    """Yield a folder beside ``path`` to fill; on success it becomes ``path``, else it is removed.

    A folder at ``path`` is exchanged in one step: readers see the old one or the new one,
    whole, also after a kill or a power cut. What a killed process left is removed by the next one
    that writes there. Where the file system cannot exchange (not ext4, XFS, Btrfs, tmpfs or
    overlayfs), it takes two steps, and the next writer restores what a kill between them left.

    Raises:
        failure: writing ended in an OSError.
    """
    make_folder(path.parent, failure)
    lock = None
    try:
        _sweep(path)
        name = f".{path.name}."
        draft = Path(tempfile.mkdtemp(prefix=name, suffix=_DRAFT, dir=path.parent))
    except OSError as error:
        raise failure(describe_failure(path, error)) from None
    try:
        lock = _lock(draft)
        yield draft
        draft.chmod(0o755)
        for folder, _folders, files in os.walk(draft):
            for file in files:
                _sync(Path(folder, file))
            _sync(Path(folder))
        put_in_place(draft, path)
    except OSError as error:
        raise failure(describe_failure(path, error)) from error
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(draft, ignore_errors=True)


def put_in_place(draft: Path, path: Path) -> None:
    """Make a finished folder ``path``; a folder there goes to ``draft``, in one step.

    Raises:
        OSError: it cannot.
    """
    if not path.exists():
        draft.rename(path)
    elif not _exchange(draft, path):
        old = draft.with_name(draft.name + _OLD)
        path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(path.parent)


_DRAFT, _OLD = ".draft", ".old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    places = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if rename(*places, ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sweep(path: Path) -> None:
    """Remove the drafts of processes that were killed; the living hold a lock on theirs."""
    for entry in path.parent.iterdir():
        if not entry.name.startswith(f".{path.name}."):
            continue
        if entry.name.endswith(_DRAFT + _OLD) and not path.exists():
            entry.rename(path)
        elif entry.name.endswith((_DRAFT, _DRAFT + _OLD)) and (lock := _lock(entry)) is not None:
            os.close(lock)
            shutil.rmtree(entry, ignore_errors=True)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds a folder's lock; None where another has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sync(path: Path) -> None:
    """Have a file or folder written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

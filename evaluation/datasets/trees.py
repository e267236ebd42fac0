"""Walking a dataset's tree and reporting missing files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.runtime.sources.listing import IMAGE_SUFFIXES, list_files

_SHOWN = 8


def describe_folder(folder: Path) -> str:
    """What a user sees on listing a folder, shortened: part of a message."""
    if not folder.is_dir():
        return f"{folder} does not exist"
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return f"{folder} is empty"
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{folder} holds {', '.join(names[:_SHOWN])}{more}"


def require_folder(folder: Path, *, dataset: str, root: Path, advice: str) -> Path:
    """The folder, or a DatasetError that says what lies in the nearest existing parent instead."""
    if folder.is_dir():
        return folder
    nearest = next(path for path in (folder, *folder.parents) if path.is_dir())
    shown = describe_folder(nearest if nearest.is_relative_to(root) else root)
    raise DatasetError(f"{dataset}: expected the folder {folder}; {shown}. {advice}")


def list_images(folder: Path) -> list[Path]:
    """Image files directly in a folder, in the order in which a source plays them."""
    return list_files(folder, IMAGE_SUFFIXES)


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in a folder, by name; those that start with a dot are left out."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def require_files(files: Iterable[Path], *, dataset: str, what: str) -> None:
    """Raise a DatasetError that counts the missing files and names the first."""
    wanted: Sequence[Path] = list(files)
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{dataset}: {len(missing)} of {len(wanted)} {what} are missing, the first is "
            f"{missing[0]}. The tree looks half downloaded or half unpacked: unpack it again."
        )

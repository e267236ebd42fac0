"""Which files of a folder count: one rule for sources and datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts)


def is_image_name(path: Path) -> bool:
    """Whether a file's name ends as that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files directly in a folder whose names end so, in natural order of their names.

    Left out are hidden files (of macOS, say: ``._a.png``), sub-folders whatever they are called,
    and links that lead nowhere.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(found, key=lambda path: (natural_key(path.name), path.name))

"""Datasets whose splits are lists of image and label files, line by line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets.trees import require_files

Pair = tuple[Path, Path]


def read_pairs(path: Path, root: Path, *, dataset: str, separator: str | None = None) -> list[Pair]:
    """Read a list: an image and a label in each line, relative to the root.

    Args:
        path: of the list.
        root: what its paths are relative to.
        dataset: for messages.
        separator: between the two, None: blanks.

    Raises:
        DatasetError: the list cannot be read, is empty, or a line has other than two paths.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{dataset}: the list {path} cannot be read ({error})") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = [part for part in line.strip().split(separator) if part]
        if len(parts) != 2:
            raise DatasetError(
                f"{dataset}: line {number} of {path} has {len(parts)} paths, expected an image and "
                "a label"
            )
        pairs.append((root / parts[0], root / parts[1]))
    if not pairs:
        raise DatasetError(f"{dataset}: the list {path} is empty")
    return pairs


def require_pairs(pairs: Iterable[Pair], *, dataset: str, labels: bool) -> None:
    """Raise a DatasetError where images, or labels if requested, are missing."""
    listed = list(pairs)
    require_files((image for image, _ in listed), dataset=dataset, what="images")
    if labels:
        require_files((label for _, label in listed), dataset=dataset, what="label maps")

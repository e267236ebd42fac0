"""Smaller sizes, when a step did not fit into GPU memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Size = tuple[int, tuple[int, int]]
"""Clips of a process, and crop (height, width)."""

_STEP, _LEAST = 32, 64


def smaller_sizes(batch: int, crop: tuple[int, int]) -> Iterator[Size]:
    """Sizes to try, largest first: fewer clips, then smaller crops of one clip."""
    while batch > 1:
        batch = max(1, batch // 2)
        yield batch, crop
    height, width = crop
    while min(height, width) * 3 // 4 >= _LEAST:
        height, width = (side * 3 // 4 // _STEP * _STEP for side in (height, width))
        yield 1, (height, width)


def find_fitting(batch: int, crop: tuple[int, int], fits: Callable[[Size], bool]) -> Size | None:
    """The first of ``smaller_sizes`` for which ``fits`` says yes; None where none does."""
    return next((size for size in smaller_sizes(batch, crop) if fits(size)), None)


def advise(size: Size | None, *, processes: int) -> str:
    """The options to use instead, as a sentence."""
    if size is None:
        return "No smaller batch or crop fits either: take a smaller encoder, or another GPU"
    batch, (height, width) = size
    return f"This fits here: --batch {batch * processes} --crop {height}x{width}"

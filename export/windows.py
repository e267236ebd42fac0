"""Window grids: how a feature map is cut into the cells that the selective scan runs in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt


def window_grid(extent: int, window: int, offset: int = 0) -> tuple[tuple[int, int], ...]:
    """Cut ``[0, extent)`` at ``0, offset, offset + window, ...`` into half-open bands.

    Args:
        extent: length of the map along one axis, 1 or more.
        window: length of a full band, 1 or more.
        offset: where the first cut lies, 0 to ``window - 1``; 0 is the plain grid.
    Returns:
        ``(start, stop)`` of every band in order; together they cover the axis once.
    Raises:
        ValueError: an argument is out of its range.
    Source: TV3S (CVPR 2025) section 3.2.
    """
    if extent < 1 or window < 1 or not 0 <= offset < window:
        raise ValueError(
            f"extent {extent}, window {window}, offset {offset}: expected extent and window of at "
            "least 1 and 0 <= offset < window"
        )
    cuts = [0, *range(offset or window, extent, window), extent]
    return tuple(pairwise(cuts))


@dataclass(frozen=True)
class WindowGeometry:
    """Map, window and offset of one layer, in tokens; the attributes of both windowed ops."""

    map_h: int
    map_w: int
    window_h: int
    window_w: int
    offset_h: int
    offset_w: int

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """Bands along the height."""
        return window_grid(self.map_h, self.window_h, self.offset_h)

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """Bands along the width."""
        return window_grid(self.map_w, self.window_w, self.offset_w)

    @property
    def cells(self) -> int:
        """Number of cells, row-major over the bands."""
        return len(self.rows) * len(self.columns)

    @property
    def tokens(self) -> int:
        """Tokens of the map."""
        return self.map_h * self.map_w


@dataclass(frozen=True)
class CellOrder:
    """Index tensors that address cells on the flat map.

    Attributes:
        order: ``[longest, cells]`` int32, map index of each cell's tokens in scan order; a cell
            that is shorter is padded at its end with ``tokens``, one past the map.
        inverse: ``[tokens]`` int32, index into ``order`` flattened at which each token stands.
        lengths: ``[cells]`` int32, tokens of each cell.
    """

    order: npt.NDArray[np.int32]
    inverse: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]

    def tail(self, taps: int) -> npt.NDArray[np.int32]:
        """``[taps, cells]`` int32: where the newest ``taps`` inputs stand, oldest first.

        They index the sequence that begins with the old conv state (``taps`` rows) and continues
        with ``order``, flattened.
        """
        cells = len(self.lengths)
        rows = self.lengths[None, :] + np.arange(taps, dtype=np.int32)[:, None]
        return (rows * cells + np.arange(cells, dtype=np.int32)).astype(np.int32)


@lru_cache(maxsize=64)
def cell_order(geometry: WindowGeometry) -> CellOrder:
    """Token order of every cell of ``geometry``: row by row, left to right, cells row-major."""
    indices = np.arange(geometry.tokens, dtype=np.int32).reshape(geometry.map_h, geometry.map_w)
    sequences = [
        indices[top:bottom, left:right].ravel()
        for top, bottom in geometry.rows
        for left, right in geometry.columns
    ]
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    order = np.full((lengths.max(), len(sequences)), geometry.tokens, dtype=np.int32)
    inverse = np.empty(geometry.tokens, dtype=np.int32)
    for cell, sequence in enumerate(sequences):
        order[: len(sequence), cell] = sequence
        inverse[sequence] = np.arange(len(sequence), dtype=np.int32) * len(sequences) + cell
    for array in (order, inverse, lengths):
        array.flags.writeable = False
    return CellOrder(order, inverse, lengths)

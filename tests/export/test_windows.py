import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.export.windows import WindowGeometry, cell_order, window_grid


@st.composite
def geometries(draw: st.DrawFn) -> WindowGeometry:
    windows = [draw(st.integers(1, 9)) for _ in range(2)]
    offsets = [draw(st.integers(0, window - 1)) for window in windows]
    return WindowGeometry(draw(st.integers(1, 30)), draw(st.integers(1, 30)), *windows, *offsets)


def test_grid_cuts_at_the_offset() -> None:
    assert window_grid(12, 4) == ((0, 4), (4, 8), (8, 12))
    assert window_grid(12, 4, 2) == ((0, 2), (2, 6), (6, 10), (10, 12))
    assert window_grid(5, 4, 3) == ((0, 3), (3, 5))
    assert window_grid(2, 4, 3) == ((0, 2),)


@given(geometries())
def test_grid_covers_every_cell_once(geometry: WindowGeometry) -> None:
    counts = np.zeros((geometry.map_h, geometry.map_w), dtype=int)
    for top, bottom in geometry.rows:
        assert 0 < bottom - top <= geometry.window_h
        for left, right in geometry.columns:
            assert 0 < right - left <= geometry.window_w
            counts[top:bottom, left:right] += 1
    assert (counts == 1).all()


@given(geometries(), st.integers(1, 4))
def test_order_addresses_every_token_once(geometry: WindowGeometry, taps: int) -> None:
    cells = cell_order(geometry)
    assert cells.order.shape[1] == geometry.cells == len(cells.lengths)
    real = cells.order[cells.order < geometry.tokens]
    assert sorted(real) == list(range(geometry.tokens))
    assert (cells.order.ravel()[cells.inverse] == np.arange(geometry.tokens)).all()
    padding = cells.order == geometry.tokens
    assert (padding == (np.arange(len(cells.order))[:, None] >= cells.lengths)).all()
    rows = cells.tail(taps) // geometry.cells
    assert (rows[-1] == cells.lengths + taps - 1).all()


@pytest.mark.parametrize("arguments", [(0, 4, 0), (4, 0, 0), (4, 4, 4), (4, 4, -1)])
def test_grid_refuses_arguments_out_of_range(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"0 <= offset < window"):
        window_grid(*arguments)

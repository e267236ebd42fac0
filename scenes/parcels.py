"""What lines the road: houses, gardens, parks and side streets, one plot a block and side."""

from enum import IntEnum

import numpy as np

from streamseg.scenes.figures import add_bush, add_tree
from streamseg.scenes.mesh import Builder, Color, Face, Floats, Mesh, beside, level, upright
from streamseg.scenes.scene_config import BUILDING, ROAD, SIDEWALK, VEGETATION

BLOCK = 24.0
"""Metres of road to a block."""
KERB = 5.8
"""Metres from the centre line to the kerb."""
PAVED = 9.2
"""Metres from the centre line to the pavement's outer edge."""

_DEPTH = 14.0
_WALLS = np.array(
    [
        (150, 92, 74), (196, 178, 148), (168, 160, 150), (186, 150, 112), (128, 122, 118),
        (206, 198, 182), (146, 116, 98), (172, 134, 118), (116, 128, 132), (190, 170, 120),
    ],
    dtype=float,
)  # fmt: skip
_ROOFS = np.array([(122, 66, 52), (84, 82, 86), (98, 74, 62), (70, 76, 84)], dtype=float)
_PANE = np.array((64.0, 74.0, 88.0))
_LAMPLIGHT = np.array((255.0, 214.0, 140.0))


class Plot(IntEnum):
    """How a block is used on one side of the road."""

    TERRACE = 0
    HOUSE = 1
    PARK = 2
    SIDE_STREET = 3


_SHARES = (0.36, 0.3, 0.22, 0.12)


def draw_plot(draws: np.random.Generator) -> Plot:
    """The use of a block."""
    return Plot(int(draws.choice(len(Plot), p=_SHARES)))


def build_plot(draws: np.random.Generator, plot: Plot, side: int) -> tuple[Mesh, Mesh]:
    """Build a block's upright things and its ground, s from 0 to `BLOCK`.

    Args:
        draws: the block's generator.
        plot: the block's use.
        side: -1 left of the road, 1 right.

    Returns:
        upright mesh, ground mesh.
    """
    build, ground = Builder(), Builder()
    if plot is Plot.TERRACE:
        cut = BLOCK * draws.uniform(0.35, 0.65)
        setback = PAVED + (draws.random() < 0.3) * draws.uniform(0.5, 2.0)
        for s0, s1 in ((cut, BLOCK), (0.0, cut)):
            _add_house(build, draws, side, setback, s0, s1, floors=int(draws.integers(3, 7)))
    elif plot is Plot.HOUSE:
        s0, s1 = draws.uniform(1, 6), BLOCK - draws.uniform(1, 6)
        setback = PAVED + draws.uniform(3.0, 6.0)
        floors = int(draws.integers(2, 4))
        _add_house(build, draws, side, setback, s0, s1, floors=floors, gable=True)
        path = draws.uniform(s0 + 2, s1 - 2)
        strip = level(*_span(side, PAVED - 0.1, setback), 0.0, path - 0.8, path + 0.8)
        ground.add(strip, _GROUND["slab"], SIDEWALK, Face.TOP, key=0)
        _add_garden(build, draws, side, setback)
    elif plot is Plot.PARK:
        for s in np.sort(draws.uniform(1, BLOCK - 1, 6))[::-1]:
            add_tree(build, draws, side * draws.uniform(11.5, 24), float(s), draws.uniform(2, 3.6))
        _add_garden(build, draws, side, 16.0)
    else:
        middle = BLOCK / 2
        for half, color, label in ((6.2, "slab", SIDEWALK), (3.6, "asphalt", ROAD)):
            near = KERB - 0.3 if label == ROAD else KERB
            strip = level(*_span(side, near, 70.0), 0.0, middle - half, middle + half)
            ground.add(strip, _GROUND[color], label, Face.TOP, key=0)
        floors = int(draws.integers(3, 6))
        _add_house(build, draws, side, PAVED, middle + 6.2, BLOCK, floors=floors)
        _add_house(build, draws, side, PAVED, 0.0, middle - 6.2, floors=floors)
    return build.finish(), ground.finish()


_GROUND: dict[str, Color] = {
    "asphalt": (104.0, 104.0, 108.0),
    "slab": (146.0, 140.0, 133.0),
    "grass": (118.0, 132.0, 74.0),
    "paint": (224.0, 224.0, 218.0),
    "kerb": (172.0, 168.0, 162.0),
    "joint": (126.0, 120.0, 114.0),
}


def ground_color(name: str) -> Floats:
    """The colour (3,) of asphalt, slab, grass, paint, kerb or joint in white light."""
    return np.array(_GROUND[name])


def _span(side: int, near: float, far: float) -> tuple[float, float]:
    return (near, far) if side > 0 else (-far, -near)


def _add_house(
    build: Builder,
    draws: np.random.Generator,
    side: int,
    setback: float,
    s0: float,
    s1: float,
    *,
    floors: int,
    gable: bool = False,
) -> None:
    storey = draws.uniform(2.9, 3.5)
    top = 0.6 + floors * storey
    wall = _WALLS[draws.integers(len(_WALLS))] * draws.uniform(0.8, 1.12)
    street = Face.LEFT if side > 0 else Face.RIGHT
    front, key = side * setback, s1
    left, right = _span(side, setback, setback + _DEPTH)
    end = upright(left, right, 0, top, s0)
    build.add(end, wall * 0.93, BUILDING, Face.BACK, key=key, casts=True)
    build.add(beside(front, 0, top, s0, s1), wall, BUILDING, street, key=key, casts=True)
    back = upright(left, right, 0, top, s1)
    build.add(back, wall, BUILDING, Face.TOP, key=key, casts=True, reach=0.0)
    if gable:
        _add_gable(build, draws, wall, (left, right), front, (s0, s1), top)
    else:
        trim = wall * draws.uniform(0.6, 0.85)
        build.add(beside(front, top - 0.5, top + 0.15, s0, s1), trim, BUILDING, street, key=key)
        build.add(
            upright(left, right, top - 0.5, top + 0.15, s0), trim, BUILDING, Face.BACK, key=key
        )
    sill = np.arange(1, floors) * storey + 0.55
    build.add(
        beside(front, sill, sill + 0.14, s0, s1), wall * 0.78, BUILDING, street, key=key, reach=70
    )
    _add_windows(build, draws, front, street, (s0, s1), floors, storey, key)
    _add_shopfront(build, draws, front, street, (s0, s1), wall, shop=not gable)


def _add_gable(
    build: Builder,
    draws: np.random.Generator,
    wall: Floats,
    sides: tuple[float, float],
    front: float,
    ends: tuple[float, float],
    top: float,
) -> None:
    left, right = sides
    (s0, s1), key = ends, ends[1]
    ridge_x, ridge = (left + right) / 2, top + draws.uniform(3.5, 5.0)
    roof = _ROOFS[draws.integers(len(_ROOFS))]
    triangle = np.array([(left, top, s0), (right, top, s0), (ridge_x, ridge, s0)])
    build.add(triangle, wall * 0.9, BUILDING, Face.BACK, key=key)
    eave = front + (0.4 if front < 0 else -0.4)
    slope = np.array(
        [(eave, top - 0.2, s0), (eave, top - 0.2, s1), (ridge_x, ridge, s1), (ridge_x, ridge, s0)]
    )
    street = Face.RIGHT if front < 0 else Face.LEFT
    build.add(slope, roof, BUILDING, street, key=key, casts=True)


def _add_windows(
    build: Builder,
    draws: np.random.Generator,
    front: float,
    street: Face,
    ends: tuple[float, float],
    floors: int,
    storey: float,
    key: float,
) -> None:
    s0, s1 = ends
    columns = max(1, int((s1 - s0) / draws.uniform(2.3, 3.2)))
    pitch = (s1 - s0) / columns
    half, tall = pitch * draws.uniform(0.2, 0.3), storey * draws.uniform(0.42, 0.58)
    column, floor = np.meshgrid(np.arange(columns), np.arange(1, floors))
    s = (s0 + (column.ravel() + 0.5) * pitch)[::-1]
    y = (0.6 + floor.ravel() * storey + 0.28 * storey)[::-1]
    count = len(s)
    if not count:
        return
    frame = beside(front, y - 0.12, y + tall + 0.12, s - half - 0.12, s + half + 0.12)
    build.add(frame, (206, 202, 194), BUILDING, street, key=key, reach=45)
    lit = draws.random(count) < 0.4
    pane = _PANE * draws.uniform(0.7, 1.3, (count, 1))
    color = np.where(lit[:, None], 0.35 * _LAMPLIGHT + 0.65 * pane, pane)
    glass = beside(front, y, y + tall, s - half, s + half)
    build.add(glass, color, BUILDING, street, key=key, glow=lit * 0.8, reach=100)
    bar = beside(front, y, y + tall, s - 0.05, s + 0.05)
    build.add(bar, (206, 202, 194), BUILDING, street, key=key, reach=25)


def _add_shopfront(
    build: Builder,
    draws: np.random.Generator,
    front: float,
    street: Face,
    ends: tuple[float, float],
    wall: Floats,
    *,
    shop: bool,
) -> None:
    (s0, s1), key = ends, ends[1]
    if s1 - s0 < 4:
        return
    if shop and draws.random() < 0.55:
        awning = draws.uniform(40, 200, 3)
        inner = beside(front, 0.4, 2.7, s0 + 0.5, s1 - 0.5)
        glow = 0.6 * float(draws.random() < 0.6)
        build.add(inner, _PANE * 1.3, BUILDING, street, key=key, glow=glow, reach=110)
        stripe = beside(front, 2.7, 3.35, s0 + 0.3, s1 - 0.3)
        build.add(stripe, awning, BUILDING, street, key=key, reach=110)
        bars = np.arange(s0 + 0.5, s1 - 0.4, 2.0)
        build.add(
            beside(front, 0.0, 2.7, bars - 0.12, bars + 0.12), wall * 0.6, BUILDING, street,
            key=key, reach=50,
        )  # fmt: skip
    else:
        base = beside(front, 0.0, 0.8, s0, s1)
        build.add(base, wall * 0.7, BUILDING, street, key=key, reach=90)
        door = draws.uniform(s0 + 1, s1 - 1)
        build.add(
            beside(front, 0.0, 2.3, door - 0.6, door + 0.6), draws.uniform(30, 110, 3), BUILDING,
            street, key=key, reach=90,
        )  # fmt: skip


def _add_garden(build: Builder, draws: np.random.Generator, side: int, depth: float) -> None:
    edge = side * (PAVED + 0.25)
    street = Face.LEFT if side > 0 else Face.RIGHT
    if draws.random() < 0.35:
        height = draws.uniform(0.8, 1.6)
        gap = draws.uniform(4, BLOCK - 6)
        for s0, s1 in ((gap + 2.4, BLOCK), (0.0, gap)):
            leaf = np.array((70.0, 98.0, 50.0)) * draws.uniform(0.8, 1.15)
            left, right = _span(side, PAVED + 0.25, PAVED + 1.0)
            build.add(level(left, right, height, s0, s1), leaf * 1.15, VEGETATION, Face.TOP, key=s1)
            hedge = beside(edge, 0, height, s0, s1)
            build.add(hedge, leaf, VEGETATION, street, key=s1, casts=True)
            spot = draws.uniform(s0, s1 - 0.4, 14)
            low = draws.uniform(0, height * 0.8, 14)
            tuft = beside(edge, low, low + height * 0.2, spot, spot + draws.uniform(0.2, 0.9, 14))
            tuft[..., 2] = np.clip(tuft[..., 2], s0, s1)
            tone = leaf * draws.uniform(0.7, 1.2, (14, 1))
            build.add(tuft, tone, VEGETATION, street, key=s1, reach=45)
            end = upright(left, right, 0, height, s0)
            build.add(end, leaf * 0.9, VEGETATION, Face.BACK, key=s1)
    for s in np.sort(draws.uniform(1, BLOCK - 1, int(draws.integers(1, 4))))[::-1]:
        x = side * draws.uniform(PAVED + 1.3, max(PAVED + 1.4, depth - 1.2))
        if draws.random() < 0.4:
            add_tree(build, draws, x, float(s), draws.uniform(1.5, 2.2))
        else:
            add_bush(build, draws, x, float(s), draws.uniform(0.6, 1.2))

"""The scene's contents at a time: fixed blocks along the road and lanes that flow along it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from streamseg.scenes.chance import RandomStream, make_generator
from streamseg.scenes.figures import (
    PHASES,
    add_pole,
    add_sign,
    add_tree,
    build_bicycle,
    build_car,
    build_person,
    build_rider,
)
from streamseg.scenes.mesh import EMPTY, Builder, Floats, Mesh, join
from streamseg.scenes.parcels import BLOCK, KERB, Plot, build_plot, draw_plot
from streamseg.scenes.scene_config import SceneConfig
from streamseg.scenes.viewpoint import FAR, Course, Drive

_Item = TypeVar("_Item")
_CACHE_SIZE = 600
_BEHIND = 12.0
_CAR_LENGTH = 5.3
_CLOSE = 2.5  # metres: a flat figure that near looks like what it is
_CROSSING_SHARE = 0.35


@dataclass(frozen=True)
class _Lane:
    """Slots of equal length that move along the road together; a slot may hold one figure.

    Attributes:
        kind: "car", "person" or "rider".
        x: metres from the centre line.
        spread: metres by which a figure may stand beside x.
        speed: metres a second along s.
        slot: metres.
        share: of the slots that are taken in traffic 1.
        view: metres to which figures are drawn.
    """

    kind: str
    x: float
    spread: float
    speed: float
    slot: float
    share: float
    view: float


_LANES = (
    _Lane("car", -1.75, 0.25, -8.0, 22.0, 0.5, 150.0),
    _Lane("person", 6.9, 0.35, 1.3, 7.0, 0.36, 70.0),
    _Lane("person", 8.2, 0.5, -1.2, 7.0, 0.36, 70.0),
    _Lane("person", -6.9, 0.35, -1.3, 7.0, 0.36, 70.0),
    _Lane("person", -8.2, 0.5, 1.2, 7.0, 0.36, 70.0),
    _Lane("rider", 3.75, 0.2, 4.6, 20.0, 0.55, 90.0),
    _Lane("rider", -3.7, 0.15, -4.8, 24.0, 0.5, 90.0),
)


class _Cache:
    """Remembers what was built; forgetting only costs time, since all is a function of its key."""

    def __init__(self) -> None:
        self._items: OrderedDict[tuple[object, ...], object] = OrderedDict()

    def fetch(self, key: tuple[object, ...], make: Callable[[], _Item]) -> _Item:
        found = self._items.get(key)
        if found is None:
            found = make()
            self._items[key] = found
            while len(self._items) > _CACHE_SIZE:
                try:
                    self._items.popitem(last=False)
                except KeyError:  # another thread emptied it between the test and here
                    break
        return found  # type: ignore[return-value]


class World:
    """Meshes of everything near the camera; safe to ask from several threads."""

    def __init__(self, config: SceneConfig, course: Course, drive: Drive) -> None:
        self._config = config
        self._course = course
        self._drive = drive
        self._cache = _Cache()

    def collect(self, time: float) -> tuple[Mesh, Mesh]:
        """Upright things and ground patches around the camera at `time` seconds, in the world."""
        here = self._drive.distance(time)
        first, last = int((here - _BEHIND) // BLOCK), int((here + FAR) // BLOCK)
        pairs = [
            self._cache.fetch(("block", number), lambda n=number: self._build_block(n))  # type: ignore[misc]
            for number in range(first, last + 1)
        ]
        parts = [pair[0] for pair in pairs]
        for number, lane in enumerate(_LANES):
            parts += self._collect_lane(number, lane, time, here)
        parts += self._collect_crossings(time, here)
        parts += self._collect_lead(time, here)
        return join(parts), join([pair[1] for pair in pairs])

    def plot(self, block: int, side: int) -> Plot:
        """Look up the use of a block on one side (-1 left, 1 right)."""
        return draw_plot(self._plot_draws(block, side))

    def _plot_draws(self, block: int, side: int) -> np.random.Generator:
        stream = RandomStream.PLOT_LEFT if side < 0 else RandomStream.PLOT_RIGHT
        return make_generator(self._config.seed, stream, block)

    def _build_block(self, block: int) -> tuple[Mesh, Mesh]:
        uprights, grounds = [EMPTY], [EMPTY]
        for side in (-1, 1):
            draws = self._plot_draws(block, side)
            plot = draw_plot(draws)
            upright, ground = build_plot(draws, plot, side)
            uprights += [_push_out(upright), self._build_kerb(block, side, plot)]
            grounds.append(ground)
        return self._bend(join(uprights), block), self._bend(join(grounds), block)

    def _bend(self, mesh: Mesh, block: int) -> Mesh:
        moved = mesh.moved(0.0, block * BLOCK)
        moved.points[..., 0] += self._course.offset(moved.points[..., 2])
        return moved

    def _build_kerb(self, block: int, side: int, plot: Plot) -> Mesh:
        stream = RandomStream.KERB_LEFT if side < 0 else RandomStream.KERB_RIGHT
        draws = make_generator(self._config.seed, stream, block)
        build = Builder()
        open_side = plot is Plot.SIDE_STREET
        if (block + (side > 0)) % 2 == 0:
            add_pole(build, side * 6.2, 1.0, height=draws.uniform(6.5, 7.5), side=side)
        if draws.random() < 0.5:
            add_sign(build, draws, side * 6.25, draws.uniform(2, 6))
        if draws.random() < 0.35 and not open_side:
            add_sign(build, draws, side * 6.25, draws.uniform(18, 22))
        if draws.random() < 0.55 and not open_side:
            for s in (18.0, 8.0):
                add_tree(build, draws, side * 6.5, s + draws.uniform(-1, 1), draws.uniform(1.4, 2))
        parts = [_push_out(build.finish())]
        s = draws.uniform(1, 4)
        while s < BLOCK - 3:
            if not (open_side and 4 < s < 20):
                parts += self._draw_parked(draws, side, s)
            s += draws.uniform(5.4, 9)
        return join(parts)

    def _draw_parked(self, draws: np.random.Generator, side: int, s: float) -> list[Mesh]:
        chance = draws.random()
        if chance < 0.26 * min(self._config.traffic, 1.8):
            car = build_car(draws, oncoming=side < 0)
            return [car.moved(side * (KERB - 1.1), s)]
        if chance > 0.8:
            gap = draws.uniform(0.5, 0.9)
            bicycles = [build_bicycle(draws, across=True) for _ in range(2)]
            return [
                _push_out(bicycle.moved(side * 6.9, s + i * gap))
                for i, bicycle in enumerate(bicycles)
            ]
        return []

    def _collect_lane(self, number: int, lane: _Lane, time: float, here: float) -> list[Mesh]:
        flow = lane.speed * time
        first = int((here - flow - 4) // lane.slot)
        last = int((here - flow + lane.view) // lane.slot)
        return [
            mesh
            for slot in range(first, last + 1)
            for mesh in self._place_slot(number, lane, slot, time)
        ]

    def _place_slot(self, number: int, lane: _Lane, slot: int, time: float) -> list[Mesh]:
        def make() -> tuple[tuple[Mesh, ...], Floats]:
            draws = make_generator(self._config.seed, RandomStream.LANE + number, slot)
            if draws.random() > lane.share * self._config.traffic:
                return (), np.zeros(0)
            return _build_figure(draws, lane.kind, oncoming=lane.speed < 0), draws.random(4)

        poses, chance = self._cache.fetch(("lane", number, slot), make)
        if not poses:
            return []
        sway = 0.06 * lane.slot * np.sin(2 * np.pi * (time / 9 + chance[0]))
        s = (slot + 0.3 + 0.4 * chance[1]) * lane.slot + lane.speed * time + sway
        if lane.kind != "car" and s < self._drive.distance(time) + _CLOSE:
            return []
        x = lane.x + lane.spread * (2 * chance[2] - 1)
        pose = poses[_phase(time, 1.1 if lane.kind == "person" else 0.9, chance[3], len(poses))]
        placed = self._set_down(pose, x, float(s))
        return [_push_out(placed) if abs(x) > KERB else placed]

    def _collect_crossings(self, time: float, here: float) -> list[Mesh]:
        """Place people and riders who cross ahead: the nearer the camera, the further across."""
        found = []
        for block in range(int(here // BLOCK), int((here + 75) // BLOCK) + 1):

            def make(block: int = block) -> tuple[tuple[Mesh, ...], Floats]:
                draws = make_generator(self._config.seed, RandomStream.CROSSING, block)
                if draws.random() > _CROSSING_SHARE * self._config.traffic:
                    return (), np.zeros(0)
                kind = "rider" if draws.random() < 0.35 else "person"
                return _build_figure(draws, kind, across=True), draws.random(4)

            poses, chance = self._cache.fetch(("crossing", block), make)
            if not poses:
                continue
            s = (block + chance[0]) * BLOCK
            done = np.clip((68 - (s - here)) / 55, 0, 1)
            direction = 1.0 if chance[1] < 0.5 else -1.0
            x = direction * (14.4 * done - 7.2)
            walking = 0 < done < 1
            pose = poses[_phase(time, 1.2, chance[3], len(poses)) if walking else 0]
            bend = float(self._course.offset(np.array(s)))
            found.append(pose.moved(x + bend, float(s), along=direction))
        return found

    def _collect_lead(self, time: float, here: float) -> list[Mesh]:
        """Place the car ahead; it leaves and another comes while out of view."""
        if not self._config.traffic:
            return []
        draws = make_generator(self._config.seed, RandomStream.LEAD)
        period, shift = draws.uniform(35, 60), draws.random()
        turn = time / period + shift
        gap = 9.5 + 90 * (1 + np.cos(2 * np.pi * turn)) + 2 * np.sin(2 * np.pi * time / 11)
        if gap > 150:
            return []
        number = int(np.floor(turn))

        def make() -> Mesh:
            return build_car(
                make_generator(self._config.seed, RandomStream.LEAD, number + 1), oncoming=False
            )

        s = here + float(gap)
        car = self._cache.fetch(("lead", number), make)
        return [self._set_down(car, 1.75, s)]

    def _set_down(self, mesh: Mesh, x: float, s: float) -> Mesh:
        """Put a figure x metres from the centre line, turned as the road is."""
        bend, ahead = self._course.offset(np.array([s, s + 1.0]))
        placed = mesh.moved(x + float(bend), s)
        placed.points[..., 0] += (ahead - bend) * (placed.points[..., 2] - s)
        return placed


def _push_out(mesh: Mesh) -> Mesh:
    # A car is sorted by its far end, so that what rides beside it on the road is drawn later; what
    # stands beyond the kerb within a car's length must be drawn earlier: the car hides it.
    return replace(mesh, keys=mesh.keys + _CAR_LENGTH)


def _build_figure(
    draws: np.random.Generator, kind: str, *, oncoming: bool = False, across: bool = False
) -> tuple[Mesh, ...]:
    if kind == "car":
        return (build_car(draws, oncoming=oncoming),)
    build = build_person if kind == "person" else build_rider
    return build(draws, across=across)


def _phase(time: float, rate: float, start: float, poses: int) -> int:
    return int((time * rate + start) * PHASES) % poses

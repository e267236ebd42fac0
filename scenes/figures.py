"""What moves or stands by the kerb: cars, people, riders, poles, signs, trees."""

import numpy as np

from streamseg.scenes.mesh import (
    Builder,
    Color,
    Face,
    Floats,
    Mesh,
    beside,
    disc,
    join,
    level,
    upright,
)
from streamseg.scenes.scene_config import BICYCLE, CAR, PERSON, POLE, RIDER, SIGN, VEGETATION

_TYRE = (28.0, 28.0, 30.0)
_GLASS = (52.0, 62.0, 74.0)
_STEEL = (122.0, 124.0, 126.0)
_SKIN = np.array([(236, 196, 168), (198, 148, 112), (140, 96, 68), (92, 62, 46)], dtype=float)
_PAINT = np.array(
    [
        (196, 198, 202), (62, 64, 68), (30, 32, 36), (226, 226, 222), (150, 30, 30),
        (36, 62, 120), (120, 124, 128), (28, 84, 64), (186, 140, 40), (96, 20, 44),
    ],
    dtype=float,
)  # fmt: skip
_CLOTH = np.array(
    [
        (172, 44, 40), (44, 70, 130), (60, 60, 64), (208, 204, 192), (56, 104, 72), (190, 150, 60),
        (96, 60, 100), (130, 134, 140), (36, 38, 44), (186, 108, 72), (84, 136, 160),
    ],
    dtype=float,
)  # fmt: skip
_LEAF = np.array([(66, 104, 46), (84, 112, 48), (52, 88, 52), (104, 118, 54), (74, 96, 40)])
PHASES = 8
"""Poses of a walking or pedalling figure."""


def _pick(draws: np.random.Generator, colors: Floats) -> Color:
    red, green, blue = colors[draws.integers(len(colors))] * draws.uniform(0.85, 1.1)
    return float(red), float(green), float(blue)


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = color
    return red * factor, green * factor, blue * factor


def build_car(draws: np.random.Generator, *, oncoming: bool) -> Mesh:
    """A car or van, its middle at x = 0 and s = 0."""
    van = draws.random() < 0.22
    width = draws.uniform(1.7, 1.85) + 0.15 * van
    length = draws.uniform(3.9, 4.7) + 0.6 * van
    belt = draws.uniform(0.85, 0.98) + 0.1 * van
    roof = draws.uniform(1.42, 1.6) + 0.55 * van
    paint, half, end = _pick(draws, _PAINT), width / 2, length / 2
    back, key = -end, end
    build = Builder()
    for side, face in ((-1, Face.LEFT), (1, Face.RIGHT)):
        flank = side * half
        build.add(beside(flank, 0.3, belt, back, end), paint, CAR, face, key=key, casts=True)
        build.add(beside(flank, 0.3, 0.45, back, end), _shade(paint, 0.6), CAR, face, key=key)
        hub = np.array([back + 0.75, end - 0.85])
        wheel = beside(flank * 1.01, 0.0, 0.64, hub - 0.33, hub + 0.33)
        build.add(wheel, _TYRE, CAR, face, key=key)
        build.add(
            beside(flank * 1.02, 0.2, 0.44, hub - 0.13, hub + 0.13), _STEEL, CAR, face, key=key
        )
    build.add(level(-half, half, belt, back, end), paint, CAR, Face.TOP, key=key)
    rear = back + (0.1 if van else 0.35)
    front = end - (1.1 if van else 1.5)
    narrow = half * 0.82
    for side, face in ((-1, Face.LEFT), (1, Face.RIGHT)):
        cabin = np.array(
            [
                (side * half, belt, back), (side * half, belt, front + 0.5),
                (side * narrow, roof, front), (side * narrow, roof, rear),
            ]
        )  # fmt: skip
        build.add(cabin, paint, CAR, face, key=key, casts=True)
        middle = cabin.mean(axis=0)
        glass = middle + (cabin - middle) * np.array([1.0, 0.72, 0.8])
        build.add(glass, _GLASS, CAR, face, key=key)
        pillar = cabin.copy()
        pillar[:2, 2] = pillar[2:, 2] = (rear + front) / 2 + np.array([-0.05, 0.05])
        pillar[2:, 2] = pillar[2:, 2][::-1]
        build.add(pillar, paint, CAR, face, key=key)
    build.add(level(-narrow, narrow, roof, rear, front), paint, CAR, Face.TOP, key=key, casts=True)
    tail = np.array(
        [(-half, belt, back), (half, belt, back), (narrow, roof, rear), (-narrow, roof, rear)]
    )
    build.add(tail, paint, CAR, Face.BACK, key=key)
    pane = tail * np.array([0.86, 1.0, 1.0])
    pane[:2, 1] += 0.06
    pane[2:, 1] -= 0.08
    build.add(pane, _GLASS, CAR, Face.BACK, key=key)
    build.add(upright(-half, half, 0.28, belt, back), paint, CAR, Face.BACK, key=key)
    build.add(upright(-half, half, 0.28, 0.46, back), _shade(paint, 0.55), CAR, Face.BACK, key=key)
    wheel_x = np.array([-half + 0.14, half - 0.14])
    build.add(upright(wheel_x - 0.11, wheel_x + 0.11, 0, 0.3, back), _TYRE, CAR, Face.BACK, key=key)
    lamp = (255.0, 246.0, 214.0) if oncoming else (216.0, 30.0, 26.0)
    lamp_x = np.array([-half + 0.2, half - 0.2])
    build.add(
        upright(lamp_x - 0.17, lamp_x + 0.17, belt - 0.3, belt - 0.1, back),
        lamp,
        CAR,
        Face.BACK,
        key=key,
        glow=0.9,
        reach=120,
    )
    plate = upright(-0.26, 0.26, 0.5, 0.62, back)
    build.add(plate, (232, 232, 224), CAR, Face.BACK, key=key, reach=50)
    return build.finish()


def build_person(draws: np.random.Generator, *, across: bool) -> tuple[Mesh, ...]:
    """A walker in `PHASES` poses, feet at the origin; `across`: walks along x."""
    size = draws.uniform(0.88, 1.08)
    look = {
        "coat": _pick(draws, _CLOTH),
        "trousers": _pick(draws, _CLOTH * 0.7),
        "skin": _pick(draws, _SKIN),
        "hair": _pick(draws, _SKIN * 0.4),
    }
    skirt, bag = draws.random() < 0.3, draws.random() < 0.4
    bag_color = _pick(draws, _CLOTH)
    stride = 0.34 if across else 0.1
    poses = []
    for phase in range(PHASES):
        build = Builder()
        swing = stride * np.sin(2 * np.pi * phase / PHASES)
        _add_walker(build, look, swing)
        if skirt:
            hem = np.array([(-0.27, 0.5, 0), (0.27, 0.5, 0), (0.19, 0.95, 0), (-0.19, 0.95, 0)])
            build.add(hem, look["coat"], PERSON, Face.FLAT, key=0)
        if bag:
            build.add(
                upright(0.16, 0.36, 0.7, 1.02, 0), bag_color, PERSON, Face.FLAT, key=0, reach=45
            )
        mesh = build.finish()
        mesh.points[..., :2] *= size
        poses.append(mesh)
    return tuple(poses)


def _add_walker(build: Builder, look: dict[str, Color], swing: float) -> None:
    for side in (-1, 1):
        foot = side * (0.09 + swing)
        leg = [
            (foot - 0.09, 0, 0), (foot + 0.1, 0, 0),
            (side * 0.1 + 0.11, 0.88, 0), (side * 0.1 - 0.11, 0.88, 0),
        ]  # fmt: skip
        tone = _shade(look["trousers"], 1.0 if side > 0 else 0.8)
        build.add(leg, tone, PERSON, Face.FLAT, key=0, casts=True)
    for side in (-1, 1):
        hand = side * 0.3 - swing * 0.8
        arm = [
            (hand - 0.06, 0.78, 0), (hand + 0.06, 0.78, 0),
            (side * 0.24 + 0.07, 1.42, 0), (side * 0.24 - 0.07, 1.42, 0),
        ]  # fmt: skip
        build.add(arm, _shade(look["coat"], 0.82), PERSON, Face.FLAT, key=0)
    torso = [
        (-0.2, 0.8, 0), (0.2, 0.8, 0), (0.27, 1.3, 0), (0.22, 1.47, 0), (-0.22, 1.47, 0),
        (-0.27, 1.3, 0),
    ]  # fmt: skip
    build.add(torso, look["coat"], PERSON, Face.FLAT, key=0, casts=True)
    build.add(disc(0, 1.61, 0, 0.115, 0.145), look["skin"], PERSON, Face.FLAT, key=0, casts=True)
    build.add(disc(0, 1.68, 0, 0.125, 0.085), look["hair"], PERSON, Face.FLAT, key=0, reach=60)


def build_bicycle(draws: np.random.Generator, *, across: bool) -> Mesh:
    """A bicycle at the origin, along s or along x, with a basket seen from behind."""
    paint = _pick(draws, _CLOTH)
    build = Builder()

    def turn(shape: Floats) -> Floats:
        return shape if across else shape[..., [2, 1, 0]]

    face = Face.FLAT
    for hub in (-0.55, 0.55):
        wheel = turn(disc(hub, 0.36, 0.0, 0.36, 0.36))
        build.add(wheel, _TYRE, BICYCLE, face, key=0.1, casts=True)
        build.add(
            turn(disc(hub, 0.36, 0.0, 0.28, 0.28)), (96, 98, 102), BICYCLE, face, key=0.1, reach=50
        )
    frame = np.array([(-0.6, 0.3, 0), (-0.1, 0.24, 0), (0.5, 0.8, 0), (-0.2, 0.82, 0)])
    build.add(turn(frame), paint, BICYCLE, face, key=0.1)
    build.add(
        turn(upright(0.38, 0.62, 0.88, 1.02, 0.0)), _shade(paint, 0.5), BICYCLE, face, key=0.1
    )
    if not across:
        build.add(upright(-0.07, 0.07, 0, 0.74, -0.9), _TYRE, BICYCLE, face, key=0.1, casts=True)
        build.add(upright(-0.3, 0.3, 0.4, 0.74, -0.85), paint, BICYCLE, face, key=0.1, casts=True)
        build.add(upright(-0.3, 0.3, 0.94, 1.02, 0.4), _STEEL, BICYCLE, face, key=0.1)
    return build.finish()


def build_rider(draws: np.random.Generator, *, across: bool) -> tuple[Mesh, ...]:
    """A rider on a bicycle in `PHASES` poses."""
    bicycle = build_bicycle(draws, across=across)
    coat, trousers = _pick(draws, _CLOTH), _pick(draws, _CLOTH * 0.7)
    skin, helmet = _pick(draws, _SKIN), _pick(draws, _CLOTH * 1.1)
    lean = 0.22 if across else 0.0
    poses = []
    for phase in range(PHASES):
        build = Builder()
        for side in (-1, 1):
            turn = 2 * np.pi * phase / PHASES + (side > 0) * np.pi
            foot_x = (0.16 * np.cos(turn) if across else 0.0) + (0 if across else side * 0.13)
            foot_y = 0.3 + 0.14 * np.sin(turn)
            hip = -0.18 if across else side * 0.11
            leg = [
                (foot_x - 0.08, foot_y, 0), (foot_x + 0.08, foot_y, 0),
                (hip + 0.13 + lean, 0.95, 0), (hip - 0.1, 0.95, 0),
            ]  # fmt: skip
            build.add(leg, _shade(trousers, 1.0 if side > 0 else 0.8), RIDER, Face.FLAT, key=0)
        half = 0.2 if across else 0.25
        torso = np.array(
            [
                (-half, 0.88, 0), (half * 0.8, 0.88, 0), (half + lean, 1.42, 0),
                (-half * 0.8 + lean, 1.5, 0),
            ]
        )  # fmt: skip
        build.add(torso, coat, RIDER, Face.FLAT, key=0, casts=True)
        arm = [(lean, 1.36, 0), (lean + 0.1, 1.42, 0), (0.56, 1.0, 0), (0.5, 0.92, 0)]
        if across:
            build.add(arm, _shade(coat, 0.8), RIDER, Face.FLAT, key=0)
        else:
            build.add(
                upright(np.array([-0.34, 0.24]), np.array([-0.24, 0.34]), 0.98, 1.4, 0),
                _shade(coat, 0.8), RIDER, Face.FLAT, key=0,
            )  # fmt: skip
        head = 1.25 * lean
        build.add(disc(head, 1.63, 0, 0.12, 0.15), skin, RIDER, Face.FLAT, key=0, casts=True)
        build.add(disc(head, 1.71, 0, 0.135, 0.09), helmet, RIDER, Face.FLAT, key=0)
        poses.append(join([bicycle, build.finish()]))
    return tuple(poses)


def add_pole(build: Builder, x: float, s: float, *, height: float, side: int) -> None:
    """A lamp post with an arm over the road; `side` is -1 left of the road, 1 right."""
    build.add(upright(x - 0.13, x + 0.13, 0, 1.2, s), _shade(_STEEL, 0.8), POLE, Face.FLAT, key=s)
    build.add(upright(x - 0.09, x + 0.09, 0, height, s), _STEEL, POLE, Face.FLAT, key=s, casts=True)
    tip = x - side * 1.7
    arm = upright(min(x, tip), max(x, tip), height - 0.16, height, s)
    build.add(arm, _STEEL, POLE, Face.FLAT, key=s, casts=True)
    lamp = upright(tip - 0.3, tip + 0.3, height - 0.26, height - 0.1, s)
    build.add(lamp, (255, 232, 178), POLE, Face.FLAT, key=s, glow=0.9)


def add_sign(build: Builder, draws: np.random.Generator, x: float, s: float) -> None:
    """A traffic sign on its post: round, triangular, square, or a board."""
    shape = draws.integers(4)
    rise = draws.uniform(2.1, 2.6)
    post = upright(x - 0.06, x + 0.06, 0, rise, s)
    build.add(post, _shade(_STEEL, 0.85), POLE, Face.FLAT, key=s, casts=True)
    red, blue, white = (196.0, 30.0, 34.0), (30.0, 70.0, 160.0), (232.0, 232.0, 228.0)
    y = rise + 0.25
    if shape == 0:
        parts = [(disc(x, y, s, 0.42, 0.42), red), (disc(x, y, s, 0.29, 0.29), white)]
    elif shape == 1:
        outer = np.array([(-0.5, -0.4, 0), (0.5, -0.4, 0), (0, 0.48, 0)])
        parts = [(outer + (x, y, s), red), (outer * 0.62 + (x, y - 0.03, s), white)]
    elif shape == 2:
        parts = [
            (upright(x - 0.4, x + 0.4, y - 0.4, y + 0.4, s)[0], blue),
            (upright(x - 0.13, x + 0.13, y - 0.25, y + 0.25, s)[0], white),
        ]
    else:
        parts = [
            (upright(x - 0.85, x + 0.85, y - 0.35, y + 0.5, s)[0], (24.0, 92.0, 62.0)),
            (upright(x - 0.65, x + 0.5, y + 0.1, y + 0.24, s)[0], white),
            (upright(x - 0.65, x + 0.2, y - 0.18, y - 0.04, s)[0], white),
        ]
    for index, (points, color) in enumerate(parts):
        reach = 1e9 if index == 0 else 60.0
        build.add(points, color, SIGN, Face.FLAT, key=s, casts=index == 0, reach=reach)


def add_tree(build: Builder, draws: np.random.Generator, x: float, s: float, size: float) -> None:
    """A tree: a trunk and a crown of leaf clumps; `size` is the crown's radius in metres."""
    leaf = _pick(draws, _LEAF)
    trunk = 1.5 + size * 0.45
    stem = np.array([(x - 0.17, 0, s), (x + 0.17, 0, s), (x + 0.1, trunk, s), (x - 0.1, trunk, s)])
    build.add(stem, (84, 68, 54), VEGETATION, Face.FLAT, key=s, casts=True)
    y = trunk + size * 0.75
    shadow = _shade(leaf, 0.62)
    build.add(disc(x, y, s, size, size * 0.95), shadow, VEGETATION, Face.FLAT, key=s, casts=True)
    count = 22
    angle = draws.uniform(0, 2 * np.pi, count)
    out = np.sqrt(draws.uniform(0.05, 1, count)) * size * 0.9
    clump = draws.uniform(0.2, 0.42, count) * size
    dx, dy = out * np.cos(angle), out * np.sin(angle) * 0.95
    order = np.argsort(dy)  # light comes from above: the upper clumps are drawn last and lightest
    for index in order:
        lift = 0.85 + 0.3 * (dy[index] / size) + draws.uniform(-0.1, 0.1)
        crown = disc(x + dx[index], y + dy[index], s, clump[index], clump[index] * 0.85)
        build.add(crown, _shade(leaf, lift), VEGETATION, Face.FLAT, key=s, reach=75)


def add_bush(build: Builder, draws: np.random.Generator, x: float, s: float, radius: float) -> None:
    """A bush on the ground."""
    leaf = _pick(draws, _LEAF)
    base = disc(x, radius * 0.6, s, radius, radius * 0.62)
    build.add(base, _shade(leaf, 0.7), VEGETATION, Face.FLAT, key=s, casts=True)
    for _ in range(6):
        dx, dy = draws.uniform(-0.6, 0.6) * radius, draws.uniform(-0.1, 0.4) * radius
        crown = disc(x + dx, radius * 0.6 + dy, s, radius * 0.4, radius * 0.3)
        build.add(
            crown, _shade(leaf, draws.uniform(0.8, 1.15)), VEGETATION, Face.FLAT, key=s, reach=60
        )

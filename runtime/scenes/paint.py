"""Rendering: image and labels are four channels of one canvas, so they agree by construction."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import FAR, Camera, Course
from .chance import Stream, make_generator
from .config import BUILDING, ROAD, SIDEWALK, SKY, TERRAIN, VEGETATION, SceneConfig
from .light import Light
from .mesh import Face, Floats, Mesh, level
from .plots import BLOCK, KERB, PAVED, ground_color
from .world import World

Bytes = NDArray[np.uint8]

_SHIFT = 4
_FIXED = float(1 << _SHIFT)
_TILE = 512
_TILE_METRES = 20.0
_CLOUD_METRES = 2600.0
_CLOUD_HEIGHT = 420.0
_SHADOW_VIEW = 75.0
_MIN_PIXELS = 0.7
_SKYLINE = 160


class Painter:
    """Paints a scene; holds textures only, so that threads may share one."""

    def __init__(self, config: SceneConfig, course: Course, world: World) -> None:
        self._size = (config.height, config.width)
        self._seed = config.seed
        self._course = course
        self._world = world
        draws = make_generator(config.seed, Stream.TEXTURE)
        grain = _make_texture(draws, octaves=(1, 2, 6, 24), weights=(1.0, 1.2, 0.8, 0.5))
        self._grain = np.asarray(np.clip(128 + 42 * grain, 0, 255), dtype=np.uint8)
        cloud = _make_texture(draws, octaves=(4, 9, 22, 60, 130), weights=(0.2, 0.4, 0.7, 1, 1.1))
        self._cloud = np.asarray(np.clip(120 + 70 * cloud, 0, 255), dtype=np.uint8)
        self._skyline = self._make_skyline()

    def paint(self, camera: Camera, light: Light, time: float) -> Bytes:
        """A canvas (H, W, 4) uint8: RGB as lit, and the label."""
        height, width = self._size
        canvas = np.empty((height, width, 4), dtype=np.uint8)
        uprights, patches = self._world.collect(time)
        horizon = camera.horizon()
        self._paint_sky(canvas, camera, light, horizon)
        self._paint_ground(canvas, camera, light, patches)
        self._shade_ground(canvas, camera, light, horizon, uprights)
        self._paint_skyline(canvas, camera, light)
        self._paint_uprights(canvas, camera, light, uprights)
        return canvas

    def _paint_sky(self, canvas: Bytes, camera: Camera, light: Light, horizon: float) -> None:
        height, width = self._size
        rise = np.clip((horizon - np.arange(height)) / (0.55 * camera.focal), 0, 1)[:, None]
        rows = light.haze + (light.zenith - light.haze) * np.sqrt(rise)
        canvas[..., :3] = rows.astype(np.uint8)[:, None]
        canvas[..., 3] = SKY
        top = min(int(horizon) - 1, height)
        if top < 8:
            return
        texture = _lay(self._cloud, camera, _CLOUD_HEIGHT, _CLOUD_METRES, (0, top), width)
        fade = (np.clip(rise[:top] * 2.2, 0, 1) * 70).astype(np.uint8)
        cover = cv2.multiply(texture, np.repeat(fade, width, axis=1), scale=1 / 255)
        veil = cv2.merge([cover, cover, cover, np.zeros_like(cover)])
        cv2.add(canvas[:top], veil, dst=canvas[:top])

    def _paint_ground(self, canvas: Bytes, camera: Camera, light: Light, patches: Mesh) -> None:
        here = camera.position[2]
        lit = light.shades[Face.TOP]
        wide, deep = 4000.0, 3000.0
        x, s = camera.position[0], here
        plain = np.array(
            [(x - wide, 0, s), (x + wide, 0, s), (x + wide, 0, s + deep), (x - wide, 0, s + deep)]
        )
        self._fill(canvas, camera, plain, (*(ground_color("grass") * lit), TERRAIN))
        stations = here + np.concatenate([np.linspace(0.5, 30, 16), np.geomspace(33, FAR, 16)])
        kerb = KERB + 0.28
        for half, name, label in (
            (PAVED, "slab", SIDEWALK), (kerb, "kerb", SIDEWALK),
        ):  # fmt: skip
            self._fill_band(canvas, camera, stations, half, (*(ground_color(name) * lit), label))
        self._fill_all(canvas, camera, self._joints(here), (*(ground_color("joint") * lit), SIDEWALK))
        for points, color, label in zip(
            patches.points, patches.colors * lit, patches.labels, strict=True
        ):
            self._fill(canvas, camera, points, (*color, label))
        self._fill_band(canvas, camera, stations, KERB, (*(ground_color("asphalt") * lit), ROAD))
        self._fill_all(canvas, camera, self._markings(here), (*(ground_color("paint") * lit), ROAD))

    def _fill_band(
        self, canvas: Bytes, camera: Camera, stations: Floats, half: float, color: tuple[float, ...]
    ) -> None:
        centre = self._course.offset(stations)
        zero = np.zeros_like(stations)
        left = np.stack([centre - half, zero, stations], axis=1)
        right = np.stack([centre + half, zero, stations], axis=1)
        pixels, _ = camera.project(np.concatenate([left, right[::-1]]))
        cv2.fillPoly(canvas, [_fix(pixels)], color, cv2.LINE_8, _SHIFT)

    def _fill(
        self, canvas: Bytes, camera: Camera, points: Floats, color: tuple[float, ...]
    ) -> None:
        pixels, depth = camera.project(points)
        if depth.max() > 0.5:
            cv2.fillConvexPoly(canvas, _fix(pixels), color, cv2.LINE_8, _SHIFT)

    def _fill_all(
        self, canvas: Bytes, camera: Camera, points: Floats, color: tuple[float, ...]
    ) -> None:
        bent = points.copy()
        bent[..., 0] += self._course.offset(bent[..., 2])
        pixels, depth = camera.project(bent)
        for polygon in _fix(pixels[depth.min(axis=1) > 0.5]):
            cv2.fillConvexPoly(canvas, polygon, color, cv2.LINE_8, _SHIFT)

    def _markings(self, here: float) -> Floats:
        dash = np.arange(np.floor(here / 6), np.floor((here + 90) / 6)) * 6
        shapes = [level(-0.09, 0.09, 0.0, dash, dash + 3)]
        for side in (-3.65, 3.65):
            edge = np.arange(np.floor(here / 8), np.floor((here + 60) / 8)) * 8
            shapes.append(level(side - 0.05, side + 0.05, 0.0, edge, edge + 4))
        for block in range(int(here // BLOCK), int((here + 70) // BLOCK) + 1):
            draws = make_generator(self._seed, Stream.CROSSING, block)
            if draws.random() < 0.3:
                stripe = np.arange(-5.2, 5.2, 1.1)
                start = block * BLOCK + 2
                shapes.append(level(stripe, stripe + 0.55, 0.0, start, start + 3))
        return np.concatenate(shapes)

    def _joints(self, here: float) -> Floats:
        joint = np.arange(np.floor(here / 2), np.floor((here + 36) / 2)) * 2
        return np.concatenate(
            [
                level(side * 7.65 - 1.55, side * 7.65 + 1.55, 0.0, joint, joint + 0.07)
                for side in (-1, 1)
            ]
        )

    def _shade_ground(
        self, canvas: Bytes, camera: Camera, light: Light, horizon: float, uprights: Mesh
    ) -> None:
        """Grain, shadows and fog on everything that lies flat."""
        height, width = self._size
        top = int(np.clip(np.ceil(horizon), 0, height))
        if top > height - 2:
            return
        rows = np.arange(top, height)
        depth = camera.position[1] * camera.focal / np.maximum(rows - horizon, 0.5)
        clear = np.exp(-light.fog * depth)
        grain = _lay(self._grain, camera, 0.0, _TILE_METRES, (top, height), width)
        strength = 0.42 * np.clip(18 / depth, 0, 1)
        tint = cv2.multiply(grain, _rows(255 * strength, width), scale=1 / 255)
        gain = cv2.subtract(_rows(np.full(len(rows), 255.0), width), tint)
        if light.shadow > 0.03:
            gain = cv2.multiply(gain, self._cast_shadows(camera, light, uprights, top), scale=1 / 255)
        gain = cv2.multiply(gain, _rows(255 * clear, width), scale=1 / 255)
        ground = canvas[top:]
        whole = np.full_like(gain, 255)
        cv2.multiply(ground, cv2.merge([gain, gain, gain, whole]), dst=ground, scale=1 / 255)
        veil = np.zeros((height - top, 1, 4), dtype=np.uint8)
        veil[:, 0, :3] = (1 - clear)[:, None] * light.haze
        cv2.add(ground, np.repeat(veil, width, axis=1), dst=ground)

    def _cast_shadows(self, camera: Camera, light: Light, uprights: Mesh, top: int) -> Bytes:
        height, width = self._size
        here = camera.position[2]
        nearby = uprights.points[:, 0, 2] < here + _SHADOW_VIEW
        points = uprights.points[(uprights.casts > 0) & nearby]
        rise = points[..., 1]
        flat = np.stack(
            [points[..., 0] + rise * light.slant[0], 0 * rise, points[..., 2] + rise * light.slant[1]],
            axis=-1,
        )
        pixels, depth = camera.project(flat)
        shown = _in_view(pixels, depth, self._size)
        mask = np.full((height - top, width), 255, dtype=np.uint8)
        shade = 255 * (1 - light.shadow)
        pixels[..., 1] -= top
        for polygon in _fix(pixels[shown]):
            cv2.fillConvexPoly(mask, polygon, shade, cv2.LINE_8, _SHIFT)
        return np.asarray(cv2.blur(mask, (3, 3)), dtype=np.uint8)

    def _make_skyline(self) -> list[tuple[float, float, float, float, int]]:
        """Silhouettes round the horizon: angle, half width, rise (radians), tone, label."""
        draws = make_generator(self._seed, Stream.SKYLINE)
        shapes = []
        for index in range(_SKYLINE):
            angle = 2 * np.pi * (index + draws.uniform(-0.4, 0.4)) / _SKYLINE
            tree = draws.random() < 0.5
            rise = draws.uniform(0.012, 0.03) if tree else draws.uniform(0.02, 0.065)
            half = draws.uniform(0.02, 0.04) if tree else draws.uniform(0.012, 0.035)
            label = VEGETATION if tree else BUILDING
            shapes.append((angle, half, rise, draws.uniform(0.8, 1.15), label))
        return shapes

    def _paint_skyline(self, canvas: Bytes, camera: Camera, light: Light) -> None:
        """Far silhouettes that fill the gap between the last block and the sky."""
        distance = 2000.0
        x, _, s = camera.position
        thick = 0.45 + 0.5 * (1 - np.exp(-light.fog * 400))
        for angle, half, rise, tone, label in self._skyline:
            ahead = (angle - camera.yaw + np.pi) % (2 * np.pi) - np.pi
            if abs(ahead) > 0.85:
                continue
            edges = angle + np.array([-half, half, half * 0.8, -half * 0.8])
            points = np.stack(
                [
                    x + distance * np.tan(ahead + edges - angle + camera.yaw),
                    np.array([-2.0, -2.0, rise * distance, rise * distance]),
                    np.full(4, s + distance),
                ],
                axis=1,
            )
            base = np.array((74, 92, 62) if label == VEGETATION else (132, 124, 118)) * tone
            color = base * light.shades[Face.FLAT] * (1 - thick) + light.haze * thick
            self._fill(canvas, camera, points, (*color, label))

    def _paint_uprights(self, canvas: Bytes, camera: Camera, light: Light, mesh: Mesh) -> None:
        pixels, depth = camera.project(mesh.points)
        middle = mesh.points.mean(axis=1) - camera.position
        shown = _in_view(pixels, depth, self._size)
        shown &= depth.mean(axis=1) < np.minimum(mesh.reach, FAR)
        shown &= (mesh.faces != Face.RIGHT) | (middle[:, 0] < 0)
        shown &= (mesh.faces != Face.LEFT) | (middle[:, 0] > 0)
        shown &= (mesh.faces != Face.TOP) | (middle[:, 1] < 0)
        chosen = np.flatnonzero(shown)
        chosen = chosen[np.argsort(-mesh.keys[chosen], kind="stable")]
        glow = mesh.glow[chosen, None]
        lit = light.shades[mesh.faces[chosen].astype(np.intp)] * (1 - glow) + light.lamp * glow
        clear = np.exp(-light.fog * np.maximum(depth[chosen].mean(axis=1), 0))[:, None]
        colors = mesh.colors[chosen] * lit * clear + light.haze * (1 - clear)
        paints = np.concatenate([np.clip(colors, 0, 255), mesh.labels[chosen, None]], axis=1)
        polygons = _fix(pixels[chosen])
        for polygon, paint in zip(polygons, paints.tolist(), strict=True):
            cv2.fillConvexPoly(canvas, polygon, paint, cv2.LINE_8, _SHIFT)


def _fix(pixels: Floats) -> NDArray[np.int32]:
    # OpenCV counts from the middle of a pixel, the camera from its corner.
    return np.asarray(np.rint((pixels - 0.5) * _FIXED), dtype=np.int32)


def _in_view(pixels: Floats, depth: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    extent = high - low
    shown = (depth.max(axis=1) > 1.3) & (high[:, 0] > 0) & (low[:, 0] < size[1])
    shown &= (high[:, 1] > 0) & (low[:, 1] < size[0])
    result: NDArray[np.bool_] = shown & (extent.max(axis=1) > _MIN_PIXELS)
    return result


def _rows(values: Floats, width: int) -> Bytes:
    return np.repeat(values.astype(np.uint8)[:, None], width, axis=1)


def _make_texture(
    draws: np.random.Generator, *, octaves: tuple[int, ...], weights: tuple[float, ...]
) -> NDArray[np.float32]:
    """Noise (512, 512) that tiles, unit variance; `octaves` are grain sizes in texels."""
    total = np.zeros((_TILE, _TILE), dtype=np.float32)
    for grain, weight in zip(octaves, weights, strict=True):
        count = max(4, _TILE // grain)
        field = draws.standard_normal((count, count), dtype=np.float32)
        wrapped = np.pad(field, 2, mode="wrap")
        side = _TILE * (count + 4) // count
        grown = cv2.resize(wrapped, (side, side), interpolation=cv2.INTER_CUBIC)
        edge = (side - _TILE) // 2
        total += weight * grown[edge : edge + _TILE, edge : edge + _TILE]
    return np.asarray(total / total.std(), dtype=np.float32)


def _lay(
    tile: Bytes, camera: Camera, height: float, metres: float, rows: tuple[int, int], width: int
) -> Bytes:
    """The tile spread over a horizontal plane, as the camera sees it in these rows."""
    top, bottom = rows
    crop = np.array([[1, 0, 0.5], [0, 1, top + 0.5], [0, 0, 1.0]])
    scale = _TILE / metres
    shift = (camera.position[[0, 2]] * scale) % _TILE
    texels = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1.0]])
    to_tile = texels @ np.linalg.inv(camera.plane_to_image(height)) @ crop
    return np.asarray(
        cv2.warpPerspective(
            tile,
            to_tile,
            (width, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        ),
        dtype=np.uint8,
    )

"""Rendering: image and labels are four channels of one canvas, so they agree by construction."""

from dataclasses import fields

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.scenes.chance import RandomStream, make_generator
from streamseg.scenes.light import Light
from streamseg.scenes.mesh import Face, Floats, Mesh, level
from streamseg.scenes.parcels import BLOCK, KERB, PAVED, ground_color
from streamseg.scenes.scene_config import (
    BUILDING,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    VEGETATION,
    SceneConfig,
)
from streamseg.scenes.viewpoint import FAR, NEAR, Camera, Course
from streamseg.scenes.world import World

Bytes = NDArray[np.uint8]

_SHIFT = 4
_FIXED = float(1 << _SHIFT)
_TILE = 512
_TILE_METRES = 20.0
_CLOUD_METRES = 2600.0
_CLOUD_HEIGHT = 420.0
_SHADOW_VIEW = 75.0
_MIN_PIXELS = 1.0
_SKYLINE = 160


class Painter:
    """Paints a scene; holds textures only, so that threads may share one."""

    def __init__(self, config: SceneConfig, course: Course, world: World) -> None:
        self._size = (config.height, config.width)
        self._seed = config.seed
        self._course = course
        self._world = world
        draws = make_generator(config.seed, RandomStream.TEXTURE)
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
        shades = np.full((height, 4), SKY, dtype=np.uint8)
        shades[:, :3] = rows
        canvas.view(np.uint32)[:] = shades.view(np.uint32)[:, None]
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
        self._paint_plain(canvas, camera, (*(ground_color("grass") * lit), TERRAIN))
        stations = here + np.concatenate([np.linspace(0.5, 30, 16), np.geomspace(33, FAR, 16)])
        kerb = KERB + 0.28
        for half, name, label in (
            (PAVED, "slab", SIDEWALK), (kerb, "kerb", SIDEWALK),
        ):  # fmt: skip
            self._fill_band(canvas, camera, stations, half, (*(ground_color(name) * lit), label))
        self._fill_all(
            canvas, camera, self._joints(here), (*(ground_color("joint") * lit), SIDEWALK)
        )
        for points, color, label in zip(
            patches.points, patches.colors * lit, patches.labels, strict=True
        ):
            self._fill(canvas, camera, points, (*color, label))
        self._fill_band(canvas, camera, stations, KERB, (*(ground_color("asphalt") * lit), ROAD))
        self._fill_all(canvas, camera, self._markings(here), (*(ground_color("paint") * lit), ROAD))

    def _paint_plain(self, canvas: Bytes, camera: Camera, color: tuple[float, ...]) -> None:
        """Fill everything below the horizon."""
        height = self._size[0]
        angles = camera.yaw + np.array([-1.0, 1.0])
        far = np.stack([np.sin(angles), np.zeros(2), np.cos(angles)], axis=1) * 4000.0
        edge, _ = camera.project(far + camera.position * np.array([1, 0, 1]))
        corners = np.array([(edge[1, 0], 4.0 * height), (edge[0, 0], 4.0 * height)])
        outline = _fix(np.concatenate([edge, corners]))
        cv2.fillConvexPoly(canvas, outline, color, cv2.LINE_8, _SHIFT)

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
            draws = make_generator(self._seed, RandomStream.CROSSING, block)
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
        """Put grain, shadows and fog on everything that lies flat."""
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
            gain = cv2.multiply(
                gain, self._cast_shadows(camera, light, uprights, top), scale=1 / 255
            )
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
            [
                points[..., 0] + rise * light.slant[0],
                0 * rise,
                points[..., 2] + rise * light.slant[1],
            ],
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

    def _make_skyline(self) -> tuple[Floats, Floats, Floats]:
        """Silhouettes round the horizon: directions (N, 4, 3), colours (N, 3), labels (N,)."""
        draws = make_generator(self._seed, RandomStream.SKYLINE)
        tree = draws.random(_SKYLINE) < 0.5
        angle = 2 * np.pi * (np.arange(_SKYLINE) + draws.uniform(-0.4, 0.4, _SKYLINE)) / _SKYLINE
        half = np.where(tree, 0.03, 0.022) * draws.uniform(0.6, 1.5, _SKYLINE)
        rise = np.where(tree, 0.02, 0.042) * draws.uniform(0.5, 1.5, _SKYLINE)
        edges = angle[:, None] + half[:, None] * np.array([-1, 1, 0.85, -0.85])
        height = rise[:, None] * np.array([0.0, 0.0, 1.0, 1.0]) - 0.0005
        directions = np.stack([np.sin(edges), height, np.cos(edges)], axis=-1)
        colors = np.where(tree[:, None], (74.0, 92.0, 62.0), (132.0, 124.0, 118.0))
        colors *= draws.uniform(0.8, 1.15, (_SKYLINE, 1))
        return directions, colors, np.where(tree, float(VEGETATION), float(BUILDING))

    def _paint_skyline(self, canvas: Bytes, camera: Camera, light: Light) -> None:
        """Paint the far silhouettes that fill the gap between the last block and the sky."""
        directions, colors, labels = self._skyline
        pixels, depth = camera.project(camera.position + directions * 4000.0)
        shown = (depth.min(axis=1) > 1000) & _in_view(pixels, depth, self._size)
        thick = 0.45 + 0.5 * (1 - np.exp(-light.fog * 400))
        lit = colors[shown] * light.shades[Face.FLAT] * (1 - thick) + light.haze * thick
        paints = np.concatenate([lit, labels[shown, None]], axis=1).tolist()
        for polygon, paint in zip(_fix(pixels[shown]), paints, strict=True):
            cv2.fillConvexPoly(canvas, polygon, paint, cv2.LINE_8, _SHIFT)

    def _paint_uprights(self, canvas: Bytes, camera: Camera, light: Light, mesh: Mesh) -> None:
        mesh = _preselect(mesh, camera.position[2])
        pixels, depth = camera.project(mesh.points)
        by_corner = np.ascontiguousarray(depth.T)
        nearest, mean_depth = by_corner.min(axis=0), by_corner.mean(axis=0)
        middle = np.ascontiguousarray(mesh.points.transpose(1, 0, 2)).mean(axis=0) - camera.position
        shown = _in_view(pixels, depth, self._size)
        shown &= mean_depth < np.minimum(mesh.reach, FAR)
        # What faces the camera and is cut by the near plane is beside or behind it.
        shown &= (nearest > NEAR) | (mesh.faces == Face.LEFT) | (mesh.faces == Face.RIGHT)
        shown &= (mesh.faces != Face.RIGHT) | (middle[:, 0] < 0)
        shown &= (mesh.faces != Face.LEFT) | (middle[:, 0] > 0)
        shown &= (mesh.faces != Face.TOP) | (middle[:, 1] < 0)
        chosen = np.flatnonzero(shown)
        chosen = chosen[np.argsort(-mesh.keys[chosen], kind="stable")]
        glow = mesh.glow[chosen, None]
        lit = light.shades[mesh.faces[chosen].astype(np.intp)] * (1 - glow) + light.lamp * glow
        clear = np.exp(-light.fog * np.maximum(mean_depth[chosen], 0))[:, None]
        colors = mesh.colors[chosen] * lit * clear + light.haze * (1 - clear)
        paints = np.concatenate([np.clip(colors, 0, 255), mesh.labels[chosen, None]], axis=1)
        polygons = _fix(pixels[chosen])
        for polygon, paint in zip(polygons, paints.tolist(), strict=True):
            cv2.fillConvexPoly(canvas, polygon, paint, cv2.LINE_8, _SHIFT)


def _fix(pixels: Floats) -> NDArray[np.int32]:
    # OpenCV counts from the middle of a pixel, the camera from its corner.
    return np.asarray(np.rint((pixels - 0.5) * _FIXED), dtype=np.int32)


def _preselect(mesh: Mesh, here: float) -> Mesh:
    """Leave out early, and roughly, what is behind the camera or beyond its reach."""
    near = mesh.points[:, 0, 2] - here
    kept = (mesh.keys > here) & (near < mesh.reach + 5) & (mesh.reach > 0)
    return Mesh(*(getattr(mesh, field.name)[kept] for field in fields(Mesh)))


def _in_view(pixels: Floats, depth: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    corners = np.ascontiguousarray(pixels.transpose(1, 2, 0))  # reducing the first axis is quick
    low, high = corners.min(axis=0), corners.max(axis=0)
    extent = (high - low).max(axis=0)
    shown = (np.ascontiguousarray(depth.T).max(axis=0) > NEAR) & (high[0] > 0)
    shown &= (low[0] < size[1]) & (high[1] > 0) & (low[1] < size[0])
    result: NDArray[np.bool_] = shown & (extent > _MIN_PIXELS)
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
    """Spread the tile over a horizontal plane and view it in these rows."""
    top, bottom = rows
    # Half the resolution: a quarter of the time, and the grain is no finer than that.
    small = (-(-width // 2), -(-(bottom - top) // 2))
    crop = np.array([[2, 0, 1.0], [0, 2, top + 1.0], [0, 0, 1.0]])
    scale = _TILE / metres
    shift = (camera.position[[0, 2]] * scale) % _TILE
    texels = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1.0]])
    to_tile = texels @ np.linalg.inv(camera.plane_to_image(height)) @ crop
    texture = cv2.warpPerspective(
        tile,
        to_tile,
        small,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )
    return np.asarray(cv2.resize(texture, (width, bottom - top)), dtype=np.uint8)

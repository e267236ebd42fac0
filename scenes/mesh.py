"""Flat convex polygons with a colour and a label: all that a scene is built from."""

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Color = tuple[float, float, float]

CORNERS = 8
"""Corners of every polygon; one with fewer repeats its last."""


class Face(IntEnum):
    """Which way a polygon looks: decides its light and whether the camera can see it."""

    BACK = 0  # towards smaller s, that is towards the camera
    RIGHT = 1  # towards larger x
    LEFT = 2
    TOP = 3
    FLAT = 4  # stands for something round: seen and lit from everywhere


@dataclass(frozen=True)
class Mesh:
    """Polygons in metres (x right, y up, s along the road), in drawing order where keys are equal.

    Attributes:
        points: (N, 8, 3).
        colors: (N, 3) RGB, 0 to 255, in white light.
        labels: (N,) train ids.
        faces: (N,) `Face`.
        glow: (N,) share of the colour that shines by itself at night.
        casts: (N,) 1 where the polygon throws a shadow.
        keys: (N,) s by which objects are sorted, far to near: the object's far end.
        reach: (N,) distance in metres beyond which the polygon is too small to matter.
    """

    points: Floats
    colors: Floats
    labels: Floats
    faces: Floats
    glow: Floats
    casts: Floats
    keys: Floats
    reach: Floats

    def moved(self, x: float, s: float, along: float = 1.0) -> "Mesh":
        """The mesh at another place; `along` = -1 mirrors one made of `Face.FLAT` polygons in x."""
        points = self.points * np.array([along, 1.0, 1.0])
        points += np.array([x, 0.0, s])
        return Mesh(
            points,
            self.colors,
            self.labels,
            self.faces,
            self.glow,
            self.casts,
            self.keys + s,
            self.reach,
        )


def join(meshes: list[Mesh]) -> Mesh:
    """One mesh of several, in order."""
    return Mesh(
        *(np.concatenate([getattr(mesh, field.name) for mesh in meshes]) for field in fields(Mesh))
    )


class Builder:
    """Collects polygons into a mesh."""

    def __init__(self) -> None:
        self._parts: list[Mesh] = []

    def add(
        self,
        points: ArrayLike,
        color: ArrayLike,
        label: int,
        face: Face,
        *,
        key: float,
        glow: ArrayLike = 0.0,
        casts: bool = False,
        reach: float = 1e9,
    ) -> None:
        """Add polygons of one label and direction.

        Args:
            points: (N, corners, 3) or (corners, 3), 3 to 8 convex corners.
            color: (3,) or (N, 3).
            label: train id.
            face: the direction.
            key: as in `Mesh`, one for all.
            glow: one number or (N,).
            casts: as in `Mesh`, one for all.
            reach: as in `Mesh`, one for all.
        """
        corners = np.asarray(points, dtype=np.float64)
        if corners.ndim == 2:
            corners = corners[None]
        count, spare = corners.shape[0], CORNERS - corners.shape[1]
        if spare:
            corners = np.concatenate([corners, np.repeat(corners[:, -1:], spare, axis=1)], axis=1)
        self._parts.append(
            Mesh(
                corners,
                np.broadcast_to(np.asarray(color, dtype=np.float64), (count, 3)),
                np.full(count, float(label)),
                np.full(count, float(face)),
                np.broadcast_to(np.asarray(glow, dtype=np.float64), (count,)),
                np.full(count, float(casts)),
                np.full(count, key),
                np.full(count, reach),
            )
        )

    def finish(self) -> Mesh:
        """Everything added so far; an empty mesh when nothing was."""
        return join([EMPTY, *self._parts])


EMPTY = Mesh(np.empty((0, CORNERS, 3)), np.empty((0, 3)), *(np.empty(0) for _ in range(6)))


def upright(x0: ArrayLike, x1: ArrayLike, y0: ArrayLike, y1: ArrayLike, s: ArrayLike) -> Floats:
    """Rectangles (N, 4, 3) across the road, facing the camera."""
    return _rectangles((x0, x1, x1, x0), (y0, y0, y1, y1), (s, s, s, s))


def beside(x: ArrayLike, y0: ArrayLike, y1: ArrayLike, s0: ArrayLike, s1: ArrayLike) -> Floats:
    """Rectangles (N, 4, 3) along the road, facing sideways."""
    return _rectangles((x, x, x, x), (y0, y0, y1, y1), (s0, s1, s1, s0))


def level(x0: ArrayLike, x1: ArrayLike, y: ArrayLike, s0: ArrayLike, s1: ArrayLike) -> Floats:
    """Horizontal rectangles (N, 4, 3)."""
    return _rectangles((x0, x1, x1, x0), (y, y, y, y), (s0, s0, s1, s1))


def disc(x: float, y: float, s: float, width: float, height: float) -> Floats:
    """An octagon (8, 3) across the road in the ellipse of these radii."""
    angles = (np.arange(CORNERS) + 0.5) * (2 * np.pi / CORNERS)
    circle = np.stack([np.cos(angles) * width, np.sin(angles) * height, np.zeros(CORNERS)], axis=1)
    shape: Floats = circle + np.array([x, y, s])
    return shape


def _rectangles(*axes: tuple[ArrayLike, ...]) -> Floats:
    count = max(np.size(value) for axis in axes for value in axis)
    shapes = np.empty((count, 4, 3))
    for axis, corners in enumerate(axes):
        for corner, value in enumerate(corners):
            shapes[:, corner, axis] = value
    return shapes

"""The road's course, the drive along it, and the pinhole camera on the car."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamseg.scenes.chance import RandomStream, make_generator
from streamseg.scenes.scene_config import SceneConfig

Floats = NDArray[np.float64]

NEAR = 1.2
"""Metres; nearer points are pulled onto this plane."""
FAR = 190.0
"""Metres; nothing beyond is drawn but the skyline."""

_FOCAL = 0.72  # of the width: 70 degrees across
_EYE = 1.65
_LANE = 1.7
_PIXEL_LIMIT = 20000.0  # keeps coordinates inside OpenCV's fixed point


class Course:
    """The centre line: sideways position (metres) over the distance driven."""

    def __init__(self, config: SceneConfig) -> None:
        draws = make_generator(config.seed, RandomStream.ROAD)
        lengths = np.array([520.0, 310.0, 170.0]) * draws.uniform(0.85, 1.2, 3)
        self._rate = 2 * np.pi / lengths
        self._size = config.curve * np.array([9.0, 4.0, 1.0]) * draws.uniform(0.6, 1.2, 3)
        self._phase = draws.uniform(0, 2 * np.pi, 3)

    def offset(self, s: Floats) -> Floats:
        """Sideways position at distances s (any shape)."""
        angles = s[..., None] * self._rate + self._phase
        offsets: Floats = np.sin(angles) @ self._size
        return offsets

    def heading(self, s: float) -> float:
        """Direction of the road at s, in radians from the s axis."""
        slope = np.cos(s * self._rate + self._phase) @ (self._size * self._rate)
        return float(np.arctan(slope))


@dataclass(frozen=True)
class Camera:
    """A posed pinhole camera.

    World axes: x to the right, y up, s along the road; camera axes: right, up, forward.

    Attributes:
        position: (3,) x, y, s in metres.
        rotation: (3, 3) world to camera.
        focal: pixels.
        centre: principal point, (u, v) pixels.
        yaw: radians, for what is infinitely far.
    """

    position: Floats
    rotation: Floats
    focal: float
    centre: tuple[float, float]
    yaw: float

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Project world points.

        Args:
            points: (..., 3) metres.

        Returns:
            pixels (..., 2) as u, v; depth (...) in metres before the pull to the near plane.
        """
        seen = (points - self.position) @ self.rotation.T
        depth = seen[..., 2]
        scale = self.focal / np.maximum(depth, NEAR)
        pixels = np.empty((*depth.shape, 2))
        pixels[..., 0] = self.centre[0] + seen[..., 0] * scale
        pixels[..., 1] = self.centre[1] - seen[..., 1] * scale
        return np.clip(pixels, -_PIXEL_LIMIT, _PIXEL_LIMIT, out=pixels), depth

    def horizon(self) -> float:
        """Row of the horizon at the middle column, in pixels."""
        ahead = self.rotation @ np.array([np.sin(self.yaw), 0.0, np.cos(self.yaw)])
        return float(self.centre[1] - self.focal * ahead[1] / ahead[2])

    def plane_to_image(self, height: float) -> Floats:
        """Homography (3, 3) from (x, s, 1), metres from the camera's foot, to homogeneous pixels.

        Args:
            height: of the horizontal plane above the ground, metres.
        """
        rise = height - self.position[1]
        columns = (self.rotation[:, 0], self.rotation[:, 2], self.rotation[:, 1] * rise)
        u, v = self.centre
        lens = np.array([[self.focal, 0, u], [0, -self.focal, v], [0, 0, 1]])
        to_image: Floats = lens @ np.stack(columns, axis=1)
        return to_image


class Drive:
    """Where the camera is at a time: closed forms, so that any frame can be asked first."""

    def __init__(self, config: SceneConfig, course: Course) -> None:
        draws = make_generator(config.seed, RandomStream.DRIVE)
        self._config = config
        self._course = course
        self._phase = draws.uniform(0, 2 * np.pi, 8)
        self._start = draws.uniform(0, 400)

    def distance(self, time: float) -> float:
        """Metres along the road after `time` seconds; the speed swings by 60 %."""
        rate = 2 * np.pi / 23.0
        swing = 0.6 / rate * (np.sin(rate * time + self._phase[0]) - np.sin(self._phase[0]))
        return float(self._start + self._config.speed * (time + swing))

    def pose(self, time: float) -> Camera:
        """The camera at `time` seconds."""
        s = self.distance(time)
        sway = self._config.sway
        wave = np.sin(
            2 * np.pi * time / np.array([9.0, 5.3, 1.1, 0.63, 2.9, 0.71, 14.0]) + self._phase[1:]
        )
        x = float(self._course.offset(np.array(s))) + _LANE + 0.25 * sway * wave[6]
        y = _EYE + sway * (0.03 * wave[2] + 0.015 * wave[3])
        yaw = self._course.heading(s) + sway * (0.035 * wave[0] + 0.012 * wave[1])
        pitch = sway * (0.006 * wave[2] + 0.003 * wave[3])
        roll = sway * (0.008 * wave[4] + 0.003 * wave[5])
        config = self._config
        return Camera(
            position=np.array([x, y, s]),
            rotation=_rotate(yaw, pitch, roll),
            focal=_FOCAL * config.width,
            centre=(config.width / 2, 0.46 * config.height),
            yaw=yaw,
        )


def _rotate(yaw: float, pitch: float, roll: float) -> Floats:
    cy, sy = np.cos(yaw), np.sin(yaw)
    cp, sp = np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    result: Floats = lean @ nod @ turn
    return result

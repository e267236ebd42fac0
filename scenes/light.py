"""Daylight and weather along the drive, drawn per segment and blended between segments."""

from dataclasses import dataclass

import numpy as np

from streamseg.scenes.chance import RandomStream, make_generator
from streamseg.scenes.mesh import Face, Floats
from streamseg.scenes.scene_config import SceneConfig

_SEGMENT = 16.0  # seconds
_SUN = np.array([1.0, 0.94, 0.82])
_LOW_SUN = np.array([1.0, 0.72, 0.48])
_SKYLIGHT = np.array([0.92, 0.97, 1.06])
_DUSKLIGHT = np.array([0.8, 0.88, 1.12])


@dataclass(frozen=True)
class Light:
    """What lights and veils the scene at one time.

    Attributes:
        level: 0 night to 1 noon; the sensor's noise grows as it falls.
        shades: (5, 3) RGB factor for each `Face`.
        lamp: factor for what glows.
        zenith, haze: (3,) RGB of the sky overhead and at the horizon, which is the fog's too.
        cloud: 0 clear to 1 overcast.
        fog: extinction per metre.
        rain: 0 dry to 1 heavy.
        shadow: darkening of a shadow on the ground, 0 to 1.
        slant: metres (x, s) by which a shadow moves for a metre of height.
    """

    level: float
    shades: Floats
    lamp: float
    zenith: Floats
    haze: Floats
    cloud: float
    fog: float
    rain: float
    shadow: float
    slant: tuple[float, float]


class Sky:
    """The light at any time of one drive."""

    def __init__(self, config: SceneConfig) -> None:
        self._config = config
        draws = make_generator(config.seed, RandomStream.WEATHER, -1)
        self._azimuth = draws.uniform(0, 2 * np.pi)

    def light(self, time: float) -> Light:
        """The light at `time` seconds."""
        level, murk, wet, cloud, swing = self._blend(time)
        low, high = self._config.daylight
        level = low + (high - low) * level
        rain = self._config.rain * max(0.0, 1.8 * wet - 0.8)
        cloud = max(cloud, min(1.0, 1.5 * rain))
        azimuth = self._azimuth + 0.8 * swing
        return _compose(
            level=level,
            cloud=cloud,
            fog=self._config.fog * (0.25 + 0.75 * murk * murk),
            rain=rain,
            azimuth=azimuth,
        )

    def _blend(self, time: float) -> tuple[float, ...]:
        place = time / _SEGMENT
        segment = int(np.floor(place))
        part = place - segment
        part = part * part * (3 - 2 * part)
        seed = self._config.seed
        first = make_generator(seed, RandomStream.WEATHER, segment).random(5)
        second = make_generator(seed, RandomStream.WEATHER, segment + 1).random(5)
        return tuple(float(value) for value in first + part * (second - first))


def _compose(*, level: float, cloud: float, fog: float, rain: float, azimuth: float) -> Light:
    dusk = np.clip((0.75 - level) / 0.6, 0, 1)
    height = 0.25 + 0.65 * np.clip(level, 0, 1)  # the sun's, radians
    direct = (1 - 0.85 * cloud) * (1 - dusk) * 0.75
    sun = np.array(
        [np.cos(height) * np.sin(azimuth), np.sin(height), np.cos(height) * np.cos(azimuth)]
    )
    normals = {
        Face.BACK: (0, 0, -1), Face.RIGHT: (1, 0, 0), Face.LEFT: (-1, 0, 0), Face.TOP: (0, 1, 0),
    }  # fmt: skip
    tint = _SUN + (_LOW_SUN - _SUN) * np.clip((0.85 - level) / 0.4, 0, 1)
    ambient = (_SKYLIGHT + (_DUSKLIGHT - _SKYLIGHT) * dusk) * (1.04 - 0.45 * direct - 0.32 * dusk)
    shades = np.empty((len(Face), 3))
    for face, normal in normals.items():
        facing = max(0.0, float(np.dot(normal, sun)))
        openness = 1.0 if face is Face.TOP else 0.86
        shades[face] = ambient * openness + tint * direct * facing
    shades[Face.FLAT] = ambient * 0.9 + tint * direct * 0.5
    clear_top, clear_low = np.array([96, 140, 206.0]), np.array([196, 212, 228.0])
    grey_top, grey_low = np.array([150, 156, 164.0]), np.array([186, 190, 194.0])
    dusk_top, dusk_low = np.array([44, 56, 92.0]), np.array([150, 118, 112.0])
    zenith = clear_top + (grey_top - clear_top) * cloud
    haze = clear_low + (grey_low - clear_low) * cloud
    zenith = zenith + (dusk_top * (1 - 0.3 * cloud) - zenith) * dusk
    haze = haze + (dusk_low * (1 - 0.35 * cloud) - haze) * dusk
    reach = min(4.0, 1 / np.tan(height))
    return Light(
        level=float(level),
        shades=shades,
        lamp=float(0.75 + 0.35 * dusk),
        zenith=zenith,
        haze=haze,
        cloud=float(cloud),
        fog=float(fog),
        rain=float(rain),
        shadow=float(0.62 * direct / 0.75),
        slant=(-float(np.sin(azimuth)) * reach, -float(np.cos(azimuth)) * reach),
    )

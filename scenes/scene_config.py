"""What a synthetic scene is made of: sizes, seed, difficulty, and the address that names it."""

import math
from dataclasses import dataclass, fields, replace
from urllib.parse import parse_qsl

from streamseg.errors import SourceError

SCENES_VERSION = 2
"""Grows with every change of a preset or of what is drawn: held-out figures belong to a version."""

ROAD, SIDEWALK, BUILDING, POLE, SIGN = 0, 1, 2, 5, 7
VEGETATION, TERRAIN, SKY = 8, 9, 10
PERSON, RIDER, CAR, BICYCLE = 11, 12, 13, 18

SCENE_CLASSES = {
    ROAD: "road",
    SIDEWALK: "sidewalk",
    BUILDING: "building",
    POLE: "pole",
    SIGN: "traffic sign",
    VEGETATION: "vegetation",
    TERRAIN: "terrain",
    SKY: "sky",
    PERSON: "person",
    RIDER: "rider",
    CAR: "car",
    BICYCLE: "bicycle",
}
"""The Cityscapes train ids that occur in a scene; the other ids of the 19 never do."""

_MIN_SIDE, _MAX_SIDE = 32, 4096
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """One endless drive; equal configurations give equal frames.

    The world's labels depend on height, width, seed, fps, speed, sway, curve and traffic only;
    everything from `daylight` on changes the picture and never the labels.

    Attributes:
        height, width: pixels, 32 to 4096.
        seed: 0 to 2**63 - 1.
        fps: frames a second of scene time.
        frames: where iteration ends; None: never.
        preset: the name that the difficulty came from.
        speed: metres a second of the camera, on average.
        sway: camera yaw, pitch, roll and bob, 1 = a car on a good road.
        curve: bends of the road, 0 = straight.
        traffic: density of cars, people and riders, 1 = a busy street.
        daylight: range of the light's level, 0 = night, 1 = noon.
        fog: extinction at its thickest, per metre.
        rain: streaks, wet lens and wiper at their heaviest, 0 to 1.
        contrast: how far surfaces stand apart, 1 = as painted, 0 = all grey.
        noise: standard deviation of the sensor noise in grey levels in full light.
        flicker: standard deviation of a frame's exposure, in stops.
        blur: share of frames out of focus or shaken.
        glare: share of frames with a flare that washes out part of the picture.
        loss: mean share of a frame lost in transmission (blocks gone or misplaced).
        smear: mean share of a frame behind spray, drops and dirt that move from frame to frame.
        quality: mean JPEG quality of a frame, 0 = not compressed, else 5 to 100.

    Raises:
        SourceError: a value is outside its range.
    """

    height: int = 256
    width: int = 512
    seed: int = 0
    fps: float = 25.0
    frames: int | None = None
    preset: str = "street"
    speed: float = 7.0
    sway: float = 1.0
    curve: float = 1.0
    traffic: float = 1.0
    daylight: tuple[float, float] = (0.55, 1.0)
    fog: float = 0.004
    rain: float = 0.5
    contrast: float = 0.95
    noise: float = 6.0
    flicker: float = 0.2
    blur: float = 0.2
    glare: float = 0.2
    loss: float = 0.14
    smear: float = 0.16
    quality: int = 60

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            self._check_range(name, _MIN_SIDE, _MAX_SIDE)
        self._check_range("seed", 0, _MAX_SEED)
        self._check_range("fps", 0.1, 1000)
        if self.frames is not None:
            self._check_range("frames", 1, 2**40)
        self._check_range("speed", 0, 40)
        for name in ("sway", "curve", "traffic"):
            self._check_range(name, 0, 3)
        low, high = self.daylight
        if not 0 <= low <= high <= 1:
            raise SourceError(f"scene: daylight is {low} to {high}; expected 0 <= low <= high <= 1")
        self._check_range("fog", 0, 0.1)
        for name in ("rain", "contrast", "blur", "glare"):
            self._check_range(name, 0, 1)
        for name in ("loss", "smear"):
            self._check_range(name, 0, 0.6)
        self._check_range("noise", 0, 80)
        self._check_range("flicker", 0, 2)
        if self.quality:
            self._check_range("quality", 5, 100)

    def _check_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise SourceError(f"scene: {name} is {value}; expected {low} to {high}")


PRESETS: dict[str, SceneConfig] = {
    "clean": SceneConfig(
        preset="clean",
        daylight=(0.9, 1.0),
        fog=0.001,
        rain=0.0,
        contrast=1.0,
        noise=0.0,
        flicker=0.0,
        blur=0.0,
        glare=0.0,
        loss=0.0,
        smear=0.0,
        quality=0,
    ),
    "easy": SceneConfig(
        preset="easy",
        daylight=(0.7, 1.0),
        fog=0.003,
        rain=0.3,
        contrast=1.0,
        noise=6.0,
        flicker=0.1,
        blur=0.1,
        glare=0.1,
        loss=0.03,
        smear=0.03,
        quality=75,
    ),
    "street": SceneConfig(),
    "hard": SceneConfig(
        preset="hard",
        traffic=1.3,
        daylight=(0.1, 0.7),
        fog=0.012,
        rain=1.0,
        contrast=0.6,
        noise=20.0,
        flicker=0.4,
        blur=0.4,
        glare=0.45,
        loss=0.22,
        smear=0.2,
        quality=30,
    ),
}
"""Frozen difficulties of `SCENES_VERSION`; a test pins their values."""

_NUMBERS: dict[str, type[int] | type[float]] = {
    "seed": int,
    "frames": int,
    "quality": int,
    **{
        field.name: float
        for field in fields(SceneConfig)
        if field.name not in ("height", "width", "seed", "frames", "quality", "preset", "daylight")
    },
}
_EXAMPLE = "synthetic:street?seed=7&size=256x512&fps=25"


def parse_scene(address: str) -> SceneConfig:
    """Read a scene's address.

    Args:
        address: ``synthetic:PRESET?OPTION=VALUE&...``; PRESET is a name of `PRESETS` ("street"
            when left out), the options are ``size=HxW``, ``daylight=LOW-HIGH`` and the numbers of
            `SceneConfig` by name.

    Raises:
        SourceError: unknown preset or option, a value that is not a number or out of range.
    """
    scheme, colon, rest = address.partition(":")
    if scheme != "synthetic" or not colon:
        raise SourceError(f"{address!r} is not a synthetic scene; expected e.g. {_EXAMPLE}")
    name, _, query = rest.partition("?")
    name = name or "street"
    if name not in PRESETS:
        raise SourceError(f"{address}: no preset {name!r}; expected one of {', '.join(PRESETS)}")
    changes: dict[str, object] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise SourceError(f"{address}: {error}; expected options as in {_EXAMPLE}") from error
    for key, text in pairs:
        parsed = _parse_option(address, key, text)
        if repeated := changes.keys() & parsed.keys():
            raise SourceError(f"{address}: {min(repeated)} is given twice; leave one out")
        changes |= parsed
    return replace(PRESETS[name], **changes)  # type: ignore[arg-type]


def _parse_option(address: str, key: str, text: str) -> dict[str, object]:
    if key == "size":
        height, width = _parse_pair(address, key, text, "x")
        return {"height": int(height), "width": int(width)}
    if key == "daylight":
        return {key: _parse_pair(address, key, text, "-")}
    if key not in _NUMBERS:
        known = ", ".join(["size", "daylight", *_NUMBERS])
        raise SourceError(f"{address}: no option {key!r}; expected one of {known}")
    try:
        return {key: _NUMBERS[key](text)}
    except ValueError as error:
        kind = "a whole number" if _NUMBERS[key] is int else "a number"
        raise SourceError(f"{address}: {key} is {text!r}; expected {kind}") from error


def _parse_pair(address: str, key: str, text: str, separator: str) -> tuple[float, float]:
    first, _, second = text.partition(separator)
    example = "256x512" if key == "size" else "0.3-1"
    number = int if key == "size" else float
    try:
        return number(first), number(second)
    except ValueError as error:
        message = f"{address}: {key} is {text!r}; expected e.g. {key}={example}"
        raise SourceError(message) from error

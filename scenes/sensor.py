"""What a camera behind a windscreen and a lossy link does to a frame: redrawn for every frame.

Nothing here lasts from one frame to the next, so that what one frame hides another shows.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.scenes.chance import RandomStream, make_generator
from streamseg.scenes.light import Light
from streamseg.scenes.scene_config import SceneConfig

Bytes = NDArray[np.uint8]

_BANK = 97  # spare rows and columns of the noise bank
_ROWS = 16  # macroblock rows of a frame, whatever its size
_WIPER_PERIOD = 1.3


class Sensor:
    """Degrades frames; holds a bank of noise only, so that threads may share one."""

    def __init__(self, config: SceneConfig) -> None:
        self._config = config
        draws = make_generator(config.seed, RandomStream.SENSOR, -1)
        shape = (config.height + _BANK, config.width + _BANK, 3)
        grey = draws.standard_normal(shape[:2], dtype=np.float32)[..., None]
        noise = 0.75 * grey + 0.66 * draws.standard_normal(shape, dtype=np.float32)
        self._bank = np.asarray(np.clip(noise * 32, -127, 127), dtype=np.int8)

    def expose(self, image: Bytes, light: Light, index: int, time: float) -> Bytes:
        """Degrade a frame to what is received.

        Args:
            image: (H, W, 3) uint8 RGB; may be written to.
            light: decides rain and noise.
            index: the frame's number, which decides every draw.
            time: seconds, for the wiper.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        config = self._config
        draws = make_generator(config.seed, RandomStream.SENSOR, index)
        if config.blur and draws.random() < config.blur:
            image = _blur(image, draws)
        if light.rain > 0.02:
            _draw_rain(image, draws, light.rain)
            if config.smear:
                _draw_wiper(image, light.rain, time)
        if config.smear:
            image = _smear(image, draws, config.smear)
        if config.glare and draws.random() < config.glare:
            image = _flare(image, draws)
        if config.flicker or config.contrast < 1:
            image = _tone(image, draws, config.flicker, config.contrast)
        if config.noise:
            image = self._add_noise(image, draws, light)
        if config.quality:
            image = _compress(image, draws, config.quality)
        if config.loss:
            _lose_blocks(image, draws, config.loss)
        return image

    def _add_noise(self, image: Bytes, draws: np.random.Generator, light: Light) -> Bytes:
        height, width = image.shape[:2]
        y, x = draws.integers(_BANK, size=2)
        sigma = self._config.noise * (1 + 0.8 * (1 - light.level)) * draws.uniform(0.7, 1.3)
        crop = self._bank[y : y + height, x : x + width]
        scaled = cv2.addWeighted(crop, sigma / 32, crop, 0, 0, dtype=cv2.CV_16S)
        return np.asarray(cv2.add(image, scaled, dtype=cv2.CV_8U), dtype=np.uint8)


def _blur(image: Bytes, draws: np.random.Generator) -> Bytes:
    """Out of focus, or shaken along a line."""
    size = image.shape[0] / 256
    width, height = draws.uniform(1, 9, 2) * size
    if draws.random() < 0.5:
        width = height
    kernel = (int(width) | 1, int(height) | 1)
    return np.asarray(cv2.blur(image, kernel), dtype=np.uint8)


def _draw_rain(image: Bytes, draws: np.random.Generator, rain: float) -> None:
    height, width = image.shape[:2]
    count = int(260 * rain)
    start = draws.uniform((0, -0.2), (1, 1), (count, 2)) * (width, height)
    slope = draws.normal(0, 0.1)
    length = draws.uniform(0.03, 0.12, count) * height
    end = start + np.stack([slope * length, length], axis=1)
    lines = np.rint(np.stack([start, end], axis=1)).astype(np.int32)
    layer = image.copy()
    thick = max(1, round(height / 256))
    cv2.polylines(layer, list(lines), False, (206, 210, 214), thick, cv2.LINE_8)
    cv2.addWeighted(layer, 0.55, image, 0.45, 0, dst=image)


def _draw_wiper(image: Bytes, rain: float, time: float) -> None:
    """A dark blade that sweeps the windscreen, back and forth."""
    if rain < 0.15:
        return
    height, width = image.shape[:2]
    angle = np.pi * (0.5 + 0.46 * np.cos(2 * np.pi * time / _WIPER_PERIOD))
    pivot = np.array([0.5 * width, 1.25 * height])
    along = np.array([np.cos(angle), -np.sin(angle)]) * 1.35 * height
    across = np.array([along[1], -along[0]]) * 0.035
    blade = np.rint(
        [pivot - across, pivot + across, pivot + along + across, pivot + along - across]
    )
    cv2.fillConvexPoly(image, blade.astype(np.int32), (22, 23, 25))


def _smear(image: Bytes, draws: np.random.Generator, share: float) -> Bytes:
    """Spray and drops: a share of the frame is seen through a blur of its surroundings."""
    height, width = image.shape[:2]
    small = cv2.resize(
        image, (max(2, width // 24), max(2, height // 24)), interpolation=cv2.INTER_AREA
    )
    grey = np.full_like(small, int(draws.uniform(90, 200)))
    small = cv2.addWeighted(small, 0.55, grey, 0.45, 0)
    veil = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    mask = np.zeros((height, width), dtype=np.uint8)
    covered, goal = 0.0, share * draws.uniform(0.2, 1.8)
    while covered < goal:
        radius = draws.uniform(0.03, 0.17)
        x, y = draws.uniform(0, 1, 2)
        axes = (int(radius * height * draws.uniform(0.7, 1.6)) + 1, int(radius * height) + 1)
        centre = (int(x * width), int(y * height))
        cv2.ellipse(mask, centre, axes, draws.uniform(0, 180), 0, 360, 255, -1)
        covered += np.pi * axes[0] * axes[1] / (height * width)
    cv2.copyTo(veil, mask, image)
    return image


def _flare(image: Bytes, draws: np.random.Generator) -> Bytes:
    """Low sun or headlights in the lens: light is added around a spot."""
    height, width = image.shape[:2]
    rows, columns = 16, 32
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 2 : columns * 1j]
    away = np.hypot(y - draws.uniform(0, 0.8), x - draws.uniform(0, 2))
    spot = draws.uniform(90, 250) * np.exp(-((away / draws.uniform(0.2, 0.55)) ** 2))
    glow = np.clip(spot[..., None] * (1.0, 0.96, 0.86), 0, 255).astype(np.uint8)
    full = cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.add(image, full), dtype=np.uint8)


def _tone(image: Bytes, draws: np.random.Generator, flicker: float, contrast: float) -> Bytes:
    """Exposure, white balance and contrast as one table a channel."""
    gain = 2.0 ** (flicker * draws.normal()) * (1 + 0.12 * flicker * draws.normal(size=3))
    level = np.arange(256.0)[:, None]
    table = np.clip((120 + contrast * (level - 120)) * gain, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, np.ascontiguousarray(table[:, None])), dtype=np.uint8)


def _compress(image: Bytes, draws: np.random.Generator, quality: int) -> Bytes:
    level = int(np.clip(quality * draws.uniform(0.5, 1.4), 5, 100))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, level])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def _lose_blocks(image: Bytes, draws: np.random.Generator, share: float) -> None:
    """Slices of macroblocks that never arrived: grey, stretched, or from the wrong place."""
    height, width = image.shape[:2]
    block = max(2, height // _ROWS)
    columns = -(-width // block)
    total = _ROWS * columns
    budget = int(total * share * draws.gamma(2.0, 0.5))
    budget = min(budget, int(0.8 * total))
    while budget > 0:
        run = min(budget, int(draws.integers(columns // 4, 2 * columns)) + 1)
        start = int(draws.integers(total))
        kind = draws.random()
        jump = int(draws.integers(1, max(2, height - block)))
        grey = draws.integers(60, 190)
        for place in range(start, min(start + run, total)):
            _spoil(image, place, (block, columns), kind, jump, int(grey))
        budget -= run


def _spoil(
    image: Bytes, place: int, grid: tuple[int, int], kind: float, jump: int, grey: int
) -> None:
    block, columns = grid
    row, column = divmod(place, columns)
    y, x = row * block, column * block
    target = image[y : y + block, x : x + block]
    if not target.size:
        return
    if kind < 0.4:
        target[:] = grey
    elif kind < 0.7:
        target[:] = target[0, 0]
    else:
        source = (y + jump) % (image.shape[0] - target.shape[0] + 1)
        target[:] = image[source : source + target.shape[0], x : x + target.shape[1]].copy()

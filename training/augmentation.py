"""Random resize, crop, flip and photometric change, drawn once and the same over a clip."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.training.config import ClipConfig

Bytes = NDArray[np.uint8]

_PAD = (124, 116, 104)  # ImageNet's mean: zero after normalisation
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32.0, 0.5, 0.5, 18


@dataclass(frozen=True)
class Tone:
    """One photometric change.

    Attributes:
        gain, offset: of every channel.
        saturation: factor.
        hue: shift in OpenCV's half degrees.
    """

    gain: float = 1.0
    offset: float = 0.0
    saturation: float = 1.0
    hue: int = 0

    @classmethod
    def draw(cls, draws: np.random.Generator) -> Tone:
        """Each of the four changes with a chance of one half."""
        use = draws.random(4) < 0.5
        values = draws.uniform(-1, 1, 4)
        return cls(
            gain=1 + _CONTRAST * values[0] if use[0] else 1.0,
            offset=_BRIGHTNESS * values[1] if use[1] else 0.0,
            saturation=1 + _SATURATION * values[2] if use[2] else 1.0,
            hue=round(_HUE * values[3]) if use[3] else 0,
        )

    def apply(self, image: Bytes) -> Bytes:
        """(H, W, 3) uint8 RGB to the same."""
        if self.gain != 1 or self.offset:
            image = np.asarray(
                cv2.LUT(
                    image,
                    np.clip(np.arange(256) * self.gain + self.offset, 0, 255).astype(np.uint8),
                ),
                np.uint8,
            )
        if self.saturation == 1 and not self.hue:
            return image
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        levels = np.arange(256)
        hue = ((levels + self.hue) % 180).astype(np.uint8)
        saturation = np.clip(levels * self.saturation, 0, 255).astype(np.uint8)
        table = np.stack([hue, saturation, levels.astype(np.uint8)], axis=1)[:, None]
        changed = cv2.LUT(hsv, np.ascontiguousarray(table))
        return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """A drawn change of a whole clip.

    Attributes:
        scaled: (height, width) after the resize.
        corner: of the crop in the resized frame, from the top left.
        crop: (height, width) of the result; what lies outside the frame is padded.
        mirror: left and right exchanged.
        tone: photometric change, None: none.
        ignore_index: label of the padding.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    crop: tuple[int, int]
    mirror: bool
    tone: Tone | None
    ignore_index: int

    @classmethod
    def draw(
        cls, config: ClipConfig, size: tuple[int, int], draws: np.random.Generator
    ) -> Augmentation:
        """Draw for frames of ``size`` (height, width)."""
        factor = float(np.exp(draws.uniform(*np.log(config.scale))))
        scaled = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
        room = [max(0, scaled[axis] - config.crop[axis]) for axis in (0, 1)]
        corner = (int(draws.integers(room[0] + 1)), int(draws.integers(room[1] + 1)))
        mirror = bool(draws.random() < config.flip)
        tone = Tone.draw(draws) if config.photometric else None
        return cls(scaled, corner, config.crop, mirror, tone, config.ignore_index)

    def apply(self, image: Bytes, label: Bytes | None) -> tuple[Bytes, Bytes]:
        """Change one frame.

        Args:
            image: (H, W, 3) uint8.
            label: (h, w) uint8, or None for a frame without.
        Returns:
            crops, (height, width, 3) and (height, width) uint8.
        """
        if label is None:
            label = np.full(image.shape[:2], self.ignore_index, np.uint8)
        if image.shape[:2] != self.scaled:
            shrinks = image.shape[0] > self.scaled[0]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, self.scaled[::-1], interpolation=how), np.uint8)
        if label.shape != self.scaled:
            # OpenCV's INTER_NEAREST is half a pixel off.
            exact = cv2.INTER_NEAREST_EXACT
            label = np.asarray(cv2.resize(label, self.scaled[::-1], interpolation=exact), np.uint8)
        top, left = self.corner
        rows, columns = slice(top, top + self.crop[0]), slice(left, left + self.crop[1])
        image, label = image[rows, columns], label[rows, columns]
        if self.mirror:
            image, label = image[:, ::-1], label[:, ::-1]
        image, label = np.ascontiguousarray(image), np.ascontiguousarray(label)
        if self.tone is not None:
            image = self.tone.apply(image)
        return self._pad(image, label)

    def _pad(self, image: Bytes, label: Bytes) -> tuple[Bytes, Bytes]:
        below, right = (self.crop[axis] - image.shape[axis] for axis in (0, 1))
        if not below and not right:
            return image, label
        constant = cv2.BORDER_CONSTANT
        image = np.asarray(
            cv2.copyMakeBorder(image, 0, below, 0, right, constant, value=_PAD), np.uint8
        )
        label = np.asarray(
            cv2.copyMakeBorder(label, 0, below, 0, right, constant, value=[self.ignore_index]),
            np.uint8,
        )
        return image, label


def erase(frames: Bytes, chance: float, draws: np.random.Generator) -> None:
    """Take a rectangle out of some frames of a clip, in place; its first frame stays whole.

    Each rectangle has a quarter to three quarters of a frame's height and width, and ImageNet's
    mean colour, which is zero after normalisation.

    Args:
        frames: (T, H, W, 3) uint8.
        chance: of each frame after the first.
        draws: two numbers a side are drawn for every frame, so that frames do not depend on others.
    """
    for frame in frames[1:]:
        hit = draws.random() < chance
        share, place = draws.uniform(0.25, 0.75, 2), draws.random(2)
        if not hit:
            continue
        size = [max(1, round(share[axis] * frame.shape[axis])) for axis in (0, 1)]
        top, left = (int(place[axis] * (frame.shape[axis] - size[axis] + 1)) for axis in (0, 1))
        frame[top : top + size[0], left : left + size[1]] = _PAD

"""Corrupted frames in the style of Cityscapes-C: noise, blur, weather and digital, with seeds.

The kinds and the strengths of noise, blur and compression are those of ImageNet-C; weather is drawn
here, so scores compare with one another and not with published ones. Noise is new in every frame,
weather and the direction of motion stay for a clip.

Source: Hendrycks and Dietterich (ICLR 2019); Kamann and Rother, Cityscapes-C (CVPR 2020).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import Clip, Dataset, IndexedClip, LabelledFrame

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Corrupt = Callable[[Floats, int, Generator, Generator], Floats]
"""Image of 0 to 1, severity 0 to 4, the clip's generator and the frame's, to an image."""

SEVERITIES = range(1, 6)


def _gaussian_noise(x: Floats, severity: int, _clip: Generator, frame: Generator) -> Floats:
    return x + frame.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[severity], x.shape)


def _shot_noise(x: Floats, severity: int, _clip: Generator, frame: Generator) -> Floats:
    photons = (60, 25, 12, 5, 3)[severity]
    return np.asarray(frame.poisson(x * photons) / photons, np.float64)


def _impulse_noise(x: Floats, severity: int, _clip: Generator, frame: Generator) -> Floats:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    draw = frame.random(x.shape)
    return np.asarray(np.where(draw < share / 2, 0.0, np.where(draw < share, 1.0, x)), np.float64)


def _filter(x: Floats, kernel: Floats) -> Floats:
    found = cv2.filter2D(x, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(found, np.float64)


def _defocus_blur(x: Floats, severity: int, _clip: Generator, _frame: Generator) -> Floats:
    radius = (3, 4, 6, 8, 10)[severity]
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return _filter(x, (rows**2 + columns**2 <= radius**2).astype(np.float64))


def _motion_blur(x: Floats, severity: int, clip: Generator, _frame: Generator) -> Floats:
    length = (10, 15, 15, 15, 20)[severity]
    angle = clip.uniform(-np.pi / 4, np.pi / 4)
    kernel = np.zeros((2 * length + 1, 2 * length + 1))
    for step in np.linspace(-length / 2, length / 2, 4 * length):
        row, column = np.sin(angle) * step, np.cos(angle) * step
        kernel[length + round(row), length + round(column)] += 1
    return _filter(x, kernel)


def _gaussian_blur(x: Floats, severity: int, _clip: Generator, _frame: Generator) -> Floats:
    return np.asarray(cv2.GaussianBlur(x, (0, 0), (1, 2, 3, 4, 6)[severity]), np.float64)


def _clouds(size: tuple[int, int], rng: Generator) -> Floats:
    """Smooth noise of 0 to 1: octaves of half the strength and twice the detail each."""
    field = np.zeros(size)
    for octave in range(6):
        grid = rng.random((2 + 2**octave, 2 + 2**octave))
        field += cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC) / 2**octave
    field -= field.min()
    scaled: Floats = field / max(field.max(), 1e-9)
    return scaled


def _fog(x: Floats, severity: int, clip: Generator, _frame: Generator) -> Floats:
    strength = (1.5, 2.0, 2.5, 2.5, 3.0)[severity]
    hazy = x + strength * _clouds((x.shape[0], x.shape[1]), clip)[..., None]
    return np.asarray(hazy * x.max() / (x.max() + strength), np.float64)


def _snow(x: Floats, severity: int, clip: Generator, frame: Generator) -> Floats:
    density = (0.01, 0.02, 0.03, 0.04, 0.06)[severity]
    flakes = (frame.random(x.shape[:2]) < density).astype(np.float64)
    angle = clip.uniform(np.pi / 4, 3 * np.pi / 4)
    length = 4 + 2 * severity
    kernel = np.zeros((2 * length + 1, 2 * length + 1))
    for step in np.linspace(-length / 2, length / 2, 4 * length):
        kernel[length + round(np.sin(angle) * step), length + round(np.cos(angle) * step)] = 1
    streaks = np.asarray(cv2.filter2D(flakes, -1, kernel), np.float64)
    grey = x.mean(2, keepdims=True) * 0.5 + 0.5
    whitened = 0.8 * x + 0.2 * np.maximum(x, grey)
    return np.asarray(whitened + np.minimum(streaks, 1.0)[..., None], np.float64)


def _brightness(x: Floats, severity: int, _clip: Generator, _frame: Generator) -> Floats:
    hsv = cv2.cvtColor(x.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[severity], 0, 1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float64)


def _contrast(x: Floats, severity: int, _clip: Generator, _frame: Generator) -> Floats:
    middle = x.mean((0, 1), keepdims=True)
    scaled = (x - middle) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity]
    return np.asarray(scaled + middle, np.float64)


def _pixelate(x: Floats, severity: int, _clip: Generator, _frame: Generator) -> Floats:
    height, width = x.shape[:2]
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity]
    size = max(1, int(width * share)), max(1, int(height * share))
    small = cv2.resize(x, size, interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), np.float64
    )


def _jpeg(x: Floats, severity: int, _clip: Generator, _frame: Generator) -> Floats:
    quality = (25, 18, 15, 10, 7)[severity]
    bytes_ = cv2.cvtColor(_to_bytes(x), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bytes_, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.float64) / 255


CORRUPTIONS: dict[str, Corrupt] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "gaussian_blur": _gaussian_blur,
    "fog": _fog,
    "snow": _snow,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}


def _to_bytes(x: Floats) -> Image:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Corruption:
    """One kind at one severity; equal seeds give equal frames."""

    kind: str
    severity: int
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Corruption:
        """``"fog:3"`` or, with a seed, ``"fog:3:7"``.

        Raises:
            DatasetError: unknown kind, or a severity that is not 1 to 5.
        """
        kind, *numbers = text.split(":")
        fits = kind in CORRUPTIONS and len(numbers) in (1, 2)
        if not fits or not all(number.isdecimal() for number in numbers):
            raise DatasetError(
                f"corruption {text!r}: expected KIND:SEVERITY[:SEED] such as fog:3, KIND one of "
                f"{', '.join(CORRUPTIONS)}"
            )
        if int(numbers[0]) not in SEVERITIES:
            raise DatasetError(f"corruption {text!r}: the severity is 1 to 5")
        return cls(kind, *(int(number) for number in numbers))

    def apply(self, image: Image, clip: str, index: int) -> Image:
        """Corrupt (H, W, 3) uint8 RGB; the same for the same clip and frame number."""
        key = (self.seed, zlib.crc32(f"{self.kind}/{clip}".encode()))
        generators = np.random.default_rng(key), np.random.default_rng((*key, 1 + index))
        corrupt = CORRUPTIONS[self.kind]
        return _to_bytes(corrupt(image / 255.0, self.severity - 1, *generators))


@dataclass(frozen=True)
class CorruptedClip:
    """A clip whose images are corrupted as they are read; labels stay."""

    clip: IndexedClip
    corruption: Corruption

    @property
    def name(self) -> str:
        """The clip's."""
        return self.clip.name

    @property
    def fps(self) -> float | None:
        """The clip's."""
        return self.clip.fps

    @property
    def frame_count(self) -> int | None:
        """The clip's."""
        return self.clip.frame_count

    @property
    def label_count(self) -> int:
        """The clip's."""
        return self.clip.label_count

    def labelled_frames(self) -> list[int]:
        """The clip's."""
        return self.clip.labelled_frames()

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, index: int) -> LabelledFrame:
        """Read and corrupt one frame; negative indices count from the end."""
        place = range(len(self))[index]
        frame = self.clip[place]
        return replace(frame, image=self.corruption.apply(frame.image, self.name, place))

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))


def corrupt_dataset(dataset: Dataset, corruption: Corruption) -> Dataset:
    """The dataset with every frame corrupted; its notes say so.

    Raises:
        DatasetError: a clip is a video without labels.
    """
    clips: list[Clip] = []
    for clip in dataset.clips:
        if not isinstance(clip, IndexedClip):
            raise DatasetError(f"clip {clip.name} is a video: corruptions need frames with labels")
        clips.append(CorruptedClip(clip, corruption))
    note = (
        f"frames are corrupted: {corruption.kind}, severity {corruption.severity} of 5, seed "
        f"{corruption.seed}"
    )
    return replace(dataset, clips=clips, notes=(*dataset.notes, note))

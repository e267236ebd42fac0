"""Pictures as they are meant to be seen: turned by the display matrix, with square pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from streamseg.runtime.video.resize import Image, Size

UNIT = 1 << 16  # of the display matrix's fixed-point numbers
LARGEST_RATIO = 16  # of a pixel's sides; anything beyond is a damaged header


@dataclass(frozen=True)
class Orientation:
    """The linear part of a display matrix: pixel (x, y) is shown at (a x + c y, b x + d y).

    Source: ISO/IEC 14496-12, the matrix of a track header.
    """

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 1.0

    @property
    def quarter(self) -> bool:
        """Whether it swaps rows and columns, perhaps mirrored."""
        return _is_small(self.a, self.b) and _is_small(self.d, self.c)

    @property
    def straight(self) -> bool:
        """Whether rows stay rows, perhaps mirrored."""
        return _is_small(self.b, self.a) and _is_small(self.c, self.d)

    def size(self, size: Size) -> Size:
        """(height, width) of a turned picture."""
        return (size[1], size[0]) if self.quarter else size

    def turn(self, image: Image) -> Image:
        """The picture turned, C-contiguous; other angles than quarters keep the frame's size."""
        if self.straight:
            return _flip(image, across=self.a < 0, down=self.d < 0)
        if self.quarter:
            return _flip(cv2.transpose(image), across=self.c < 0, down=self.b < 0)
        return self._warp(image)

    def _warp(self, image: Image) -> Image:
        height, width = image.shape[:2]
        scale = abs(self.a * self.d - self.b * self.c) ** 0.5
        linear = np.array([[self.a, self.c], [self.b, self.d]]) / scale
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        matrix = np.column_stack([linear, centre - linear @ centre])
        return np.asarray(cv2.warpAffine(image, matrix, (width, height)), np.uint8)


UPRIGHT = Orientation()


def _is_small(value: float, beside: float) -> bool:
    return abs(value) < abs(beside) / 50  # about one degree


def _flip(image: Any, *, across: bool, down: bool) -> Image:
    if across or down:
        return np.asarray(cv2.flip(image, -1 if across and down else int(across)), np.uint8)
    return np.ascontiguousarray(image, np.uint8)


def read_orientation(frame: av.VideoFrame) -> Orientation | None:
    """What the frame's display matrix says; ``None`` where it is damaged or cannot be read."""
    try:
        # frame.side_data would keep this in the frame, and it keeps the frame: a circle that holds
        # the decoder and its threads until the garbage collector finds it.
        # (Its type hints know neither this call nor types as keys.)
        make: Any = SideDataContainer
        data = make(frame).get(Type.DISPLAYMATRIX)
    except ValueError:
        # PyAV stops at kinds of side data that are newer than it; the angle is all that is left.
        return None if frame.rotation else UPRIGHT
    if data is None:
        return UPRIGHT
    matrix = np.frombuffer(bytes(data), np.int32)
    if matrix.size < 5:
        return None
    a, b, c, d = (float(matrix[i]) / UNIT for i in (0, 1, 3, 4))
    return Orientation(a, b, c, d) if a * d - b * c else None


def square_size(size: Size, ratio: Fraction) -> Size:
    """(height, width) with square pixels, of a frame whose pixels are ``ratio`` times as wide."""
    height, width = size
    return height, max(1, round(width * ratio))


def square_pixels(image: Image, ratio: Fraction) -> Image:
    """The picture widened or narrowed to square pixels."""
    height, width = square_size((image.shape[0], image.shape[1]), ratio)
    if width == image.shape[1]:
        return image
    way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)


def usable_ratio(ratio: Fraction | None) -> Fraction | None:
    """A pixel aspect ratio that means something, else ``None``."""
    if ratio is None or ratio <= 0 or not Fraction(1, LARGEST_RATIO) <= ratio <= LARGEST_RATIO:
        return None
    return ratio

"""Scene cuts: frames whose colours differ from the frame before as no movement makes them."""

from __future__ import annotations

import cv2
import numpy as np

from streamseg.runtime.resize import Image

THUMBNAIL = (72, 128)  # rows, columns


class CutDetector:
    """Scores each frame by its mean absolute difference in hue, saturation and value.

    Args:
        threshold: score from which ``is_cut`` says yes, 0 to 255.

    Source: the content detector of PySceneDetect (BSD-3-Clause), from its published description.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.score = 0.0
        self.thumbnail: Image | None = None

    def is_cut(self, image: Image) -> bool:
        """Take the next frame, (height, width, 3) uint8 RGB; True where it begins a scene.

        ``score`` is that of this frame; the first frame has none.
        """
        small = shrink(image)
        before, self.thumbnail = self.thumbnail, small
        self.score = 0.0 if before is None else float(np.mean(cv2.absdiff(small, before)))
        return self.score >= self.threshold


def shrink(image: Image) -> Image:
    """A thumbnail in HSV, (rows, columns, 3) uint8; hue runs over 0 to 179."""
    rows, columns = THUMBNAIL
    stride = max(1, min(image.shape[0] // (2 * rows), image.shape[1] // (2 * columns)))
    small = cv2.resize(image[::stride, ::stride], (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2HSV), dtype=np.uint8)

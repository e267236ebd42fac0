"""Scene cuts: frames whose colours differ from the previous frame more than movement explains."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import cv2
import numpy as np

from streamseg.runtime.video.resize import Image

THUMBNAIL = (18, 32)  # rows, columns: small enough to blur movement and noise away
SAMPLES = 8  # pixels looked at along each side of a thumbnail's pixel, at most about twice that
RATIO = 4.0  # a cut stands out so far from the frames before it
WINDOW = 8  # frames before, at most
LEAST = 3  # frames before, at least: no cut is seen sooner after the start or another cut


class CutDetector:
    """Finds scene cuts as they happen; looks at no later frame.

    A frame's score is the mean absolute difference of hue, saturation and value from the frame
    before, 0 to 255. A cut is a score of at least ``threshold`` that is also at least ``RATIO``
    times the mean of the last scores, so that footage which changes all the time (fast movement,
    rain, few frames a second) shows none.

    Args:
        threshold: the least score of a cut.

    Attributes:
        score: of the last frame; 0 for the first.
        thumbnail: ``[18, 32, 3]`` uint8 HSV of the last frame.
        scores: of the frames since the last cut, ``WINDOW`` at most.

    Source: content and adaptive detectors of PySceneDetect (BSD-3-Clause), as its documentation
    describes them; its adaptive form also needs the frames after.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.score = 0.0
        self.thumbnail: Image | None = None
        self.scores: deque[float] = deque(maxlen=WINDOW)

    def is_cut(self, image: Image) -> bool:
        """Take the next frame, (height, width, 3) uint8 RGB; True where it begins a scene."""
        before, self.thumbnail = self.thumbnail, shrink(image)
        if before is None:
            return False
        self.score = float(np.mean(cv2.absdiff(self.thumbnail, before)))
        usual = float(np.mean(self.scores)) if len(self.scores) >= LEAST else np.inf
        if self.score >= max(self.threshold, RATIO * usual):
            self.scores.clear()
            return True
        self.scores.append(self.score)
        return False

    def restore(self, thumbnail: Image | None, scores: Iterable[float]) -> None:
        """Continue as a detector that had these."""
        self.thumbnail = thumbnail
        self.scores = deque(scores, maxlen=WINDOW)


def shrink(image: Image) -> Image:
    """A thumbnail in HSV, ``[18, 32, 3]`` uint8; hue runs from 0 to 179."""
    rows, columns = THUMBNAIL
    height, width = image.shape[:2]
    stride = max(1, min(height // (SAMPLES * rows), width // (SAMPLES * columns)))
    sampled = np.ascontiguousarray(image[::stride, ::stride])
    small = cv2.resize(sampled, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2HSV), dtype=np.uint8)

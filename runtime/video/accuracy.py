"""Accuracy of a stream's labels, where its source knows the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamseg.counting import count_of
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.sources.frame import Frame
from streamseg.runtime.video.overlay import write_caption
from streamseg.runtime.video.resize import Image
from streamseg.scenes import SCENE_CLASSES


class AccuracyMeter:
    """Counts correct pixels of each frame, and intersections and unions over the stream.

    Args:
        classes: the bundle's.

    Attributes:
        frames: counted so far.
    """

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        self._count = 1 + max(*(entry.id for entry in classes), *SCENE_CLASSES)
        self._counts = np.zeros((self._count, self._count), np.int64)
        self._latest = 0.0
        self.frames = 0

    @staticmethod
    def fits(classes: Sequence[ClassInfo]) -> bool:
        """Whether a bundle's classes are those that scenes are labelled with."""
        names = {entry.id: entry.name for entry in classes}
        return all(names.get(number) == name for number, name in SCENE_CLASSES.items())

    def add(self, labels: Image, truth: Image) -> None:
        """Count one frame: both (height, width) uint8, 255 in neither counted as correct."""
        predicted = np.minimum(labels, self._count - 1).astype(np.intp)
        pairs = truth.astype(np.intp) * self._count + predicted
        counts = np.bincount(pairs.ravel(), minlength=self._count**2)
        counts = counts.reshape(self._count, self._count)
        self._latest = float(np.trace(counts) / counts.sum())
        self._counts += counts
        self.frames += 1

    def inspect(self, frame: Frame, labels: Image, picture: Image | None) -> None:
        """Count a frame whose truth the source knows, and write the score into its picture."""
        if frame.truth is not None:
            self.add(labels, frame.truth)
            if picture is not None:
                write_caption(picture, self.caption)

    @property
    def latest(self) -> float:
        """Share of correct pixels in the last frame."""
        return self._latest

    @property
    def pixel_accuracy(self) -> float:
        """Share of correct pixels so far."""
        return float(np.trace(self._counts) / self._counts.sum())

    @property
    def miou(self) -> float:
        """Mean over the classes seen or predicted of intersection over union so far."""
        hit = np.diag(self._counts)
        union = self._counts.sum(0) + self._counts.sum(1) - hit
        return float((hit[union > 0] / union[union > 0]).mean())

    @property
    def caption(self) -> str:
        """What is written into the picture."""
        return f"correct: {self.latest:.1%} of this frame, mIoU {self.miou:.1%} so far"

    @property
    def sentence(self) -> str:
        """What is said at the end."""
        return (
            f"against the scene's exact labels, "
            f"{count_of(self.frames, 'frame')}: {self.pixel_accuracy:.2%} "
            f"of pixels correct, mIoU {self.miou:.2%}"
        )

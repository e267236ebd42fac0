"""Clips of frames in order, with optional labels: what every dataset is turned into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import av
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets.images import LabelCoding, read_image
from streamseg.evaluation.datasets.label_classes import SegmentationClass


@dataclass(frozen=True)
class LabelledFrame:
    """One frame.

    ``image`` is (H, W, 3) uint8 RGB, ``label`` (h, w) uint8 with 255 = void or None where the frame
    has no label, ``time`` the seconds since the clip's first frame or None where it is not known.
    """

    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    time: float | None


class Clip(Protocol):
    """Frames in order. Iterating reads them one at a time; a clip can be iterated again."""

    @property
    def name(self) -> str:
        """Unique in the dataset."""

    @property
    def fps(self) -> float | None:
        """Frames a second; None where it is not known."""

    @property
    def frame_count(self) -> int | None:
        """How many frames there are; None where only decoding would show."""

    @property
    def label_count(self) -> int:
        """How many frames have a label."""

    def __iter__(self) -> Iterator[LabelledFrame]:
        """Read the frames in order.

        Raises:
            DatasetError: a file is missing, damaged or cut off.
        """


@runtime_checkable
class IndexedClip(Clip, Protocol):
    """A clip whose frames are available in any order."""

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index: int) -> LabelledFrame:
        """Read one frame; negative indices count from the end."""

    def labelled_frames(self) -> list[int]:
        """Indices of the frames with a label, ascending, found without reading frames."""


@dataclass(frozen=True)
class Still:
    """Where one frame of a clip of image files lies, and when it was taken."""

    image: Path
    label: Path | None = None
    time: float | None = None


@dataclass(frozen=True)
class StillClip:
    """A clip stored as image files."""

    name: str
    stills: tuple[Still, ...]
    fps: float | None = None
    coding: LabelCoding | None = None

    @property
    def frame_count(self) -> int:
        """Number of image files."""
        return len(self.stills)

    @property
    def label_count(self) -> int:
        """Number of frames with a label file."""
        return len(self.labelled_frames())

    def labelled_frames(self) -> list[int]:
        """Indices of the frames with a label file."""
        return [index for index, still in enumerate(self.stills) if still.label is not None]

    def __len__(self) -> int:
        return len(self.stills)

    def __getitem__(self, index: int) -> LabelledFrame:
        """Read one frame; negative indices count from the end."""
        still = self.stills[index]
        image = read_image(still.image)
        return LabelledFrame(still.image.stem, image, self.read_label(index), still.time)

    def read_label(self, index: int) -> NDArray[np.uint8] | None:
        """The label of one frame; None where it has none."""
        path = self.stills[index].label
        return None if path is None or self.coding is None else self.coding.read(path)

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class VideoClip:
    """A clip stored as a video file, without labels."""

    name: str
    path: Path
    fps: float | None
    frame_count: int | None = None

    @property
    def label_count(self) -> int:
        """Videos carry no labels."""
        return 0

    @classmethod
    def probe(cls, path: Path, name: str) -> VideoClip:
        """Read the header of a video file.

        Raises:
            DatasetError: not a video.
        """
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                rate = stream.average_rate
                return cls(name, path, float(rate) if rate else None, stream.frames or None)
        except (av.error.FFmpegError, IndexError, OSError) as error:
            raise DatasetError(f"{path} cannot be opened as a video: {error}") from error

    def __iter__(self) -> Iterator[LabelledFrame]:
        decoded = 0
        first: Fraction | None = None
        try:
            with av.open(str(self.path)) as container:
                for frame in container.decode(video=0):
                    time = None
                    if frame.pts is not None and frame.time_base is not None:
                        moment = frame.pts * frame.time_base
                        first = moment if first is None else first
                        time = float(moment - first)
                    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    yield LabelledFrame(f"{self.path.stem}_{decoded:06d}", image, None, time)
                    decoded += 1
        except (av.error.FFmpegError, IndexError, OSError) as error:
            raise DatasetError(
                f"{self.path} is cut off after {decoded} frames: {error}. Download it again."
            ) from error


@dataclass(frozen=True)
class Dataset:
    """The clips of one split, in a fixed order.

    ``classes`` is empty for footage without labels. ``notes`` says what had to be guessed of the
    labels.
    """

    name: str
    root: Path
    split: str
    clips: Sequence[Clip]
    classes: tuple[SegmentationClass, ...]
    notes: tuple[str, ...] = ()

    @property
    def frame_count(self) -> int | None:
        """Frames of all clips; None where a video does not say."""
        counts = [clip.frame_count for clip in self.clips]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def label_count(self) -> int:
        """Labelled frames of all clips."""
        return sum(clip.label_count for clip in self.clips)

"""A frozen segmenter as teacher: its own labels of whole frames instead of a dataset's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import TrainingError
from streamseg.evaluation.class_matching import ClassesBy, NamedClasses, match_classes
from streamseg.evaluation.datasets import Dataset, IndexedClip, LabelledFrame, SegmentationClass
from streamseg.export.step import StepModel
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.runtime.stream import Stream, open_stream


@dataclass(frozen=True)
class TaughtClip:
    """A clip with the labels that a segmenter gives each frame by itself."""

    clip: IndexedClip
    stream: Stream

    @property
    def name(self) -> str:
        """The clip's."""
        return self.clip.name

    @property
    def fps(self) -> float | None:
        """The clip's."""
        return self.clip.fps

    @property
    def frame_count(self) -> int:
        """Every frame of the clip."""
        return len(self.clip)

    @property
    def label_count(self) -> int:
        """Every frame has a label."""
        return len(self.clip)

    def labelled_frames(self) -> list[int]:
        """Every frame."""
        return list(range(len(self.clip)))

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, index: int) -> LabelledFrame:
        """A frame of the clip with the segmenter's labels, at its own size."""
        frame = self.clip[index]
        self.stream.reset()
        labels: NDArray[np.uint8] = self.stream.step(frame.image).labels
        return replace(frame, label=labels.copy())

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))


def teach(dataset: Dataset, bundle: Path, *, erase: float) -> Dataset:
    """The dataset with a bundle's own labels and classes; it needs none itself.

    Args:
        dataset: clips that can be read in any order.
        bundle: the segmenter.
        erase: see ``ClipConfig``.

    Raises:
        TrainingError: nothing is erased, so there is nothing to learn; or a clip is a video.
        BundleError: the bundle cannot be opened.
    """
    if not erase:
        raise TrainingError(
            "the segmenter teaches nothing about frames that it sees whole itself: give --erase, "
            "such as --erase 0.5"
        )
    stream = open_stream(bundle)
    classes = tuple(SegmentationClass(e.name, e.color) for e in stream.manifest.classes)
    clips = []
    for clip in dataset.clips:
        if not isinstance(clip, IndexedClip):
            raise TrainingError(
                f"clip {clip.name}: its frames cannot be read in any order. Unpack the video into "
                "a folder of images"
            )
        clips.append(TaughtClip(clip, stream))
    # The identity in the name keeps the caches of two segmenters apart.
    name = f"{dataset.name} as labelled by {read_bundle(bundle).identity}"
    return replace(dataset, name=name, clips=clips, classes=classes)


def require_same_classes(network: StepModel, dataset: Dataset, *, classes_by: ClassesBy) -> None:
    """Raise unless a bundle's classes are the dataset's, in its order.

    Raises:
        TrainingError: in another order.
        DatasetError: other classes.
    """
    match = match_classes(
        NamedClasses("the bundle", tuple(entry.name for entry in network.classes)),
        NamedClasses("the dataset", tuple(entry.name for entry in dataset.classes)),
        classes_by=classes_by,
    )
    if not match.identity:
        raise TrainingError(
            "the bundle has the dataset's classes in another order: train on labels in its order, "
            "or with --teacher segmenter"
        )

"""Datasets of unrelated images: every image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets.clips import Still, StillClip
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.trees import list_images, require_files, require_folder


def check_split(split: str, splits: Sequence[str], dataset: str) -> None:
    """Raise DatasetError where a dataset has no such split."""
    if split not in splits:
        raise DatasetError(f"{dataset} has no split {split!r}: expected one of {', '.join(splits)}")


def single_clips(
    folder: Path,
    label_of: Callable[[Path], Path] | None,
    coding: LabelCoding,
    *,
    dataset: str,
    root: Path,
    advice: str,
) -> list[StillClip]:
    """The images of a folder, each a clip.

    Args:
        folder: of the images.
        label_of: image to label file; None leaves the labels out.
        coding: of the label files.
        dataset: for messages.
        root: of the dataset's tree.
        advice: how to get the images.

    Raises:
        DatasetError: the folder is missing or empty, or a label is missing.
    """
    require_folder(folder, dataset=dataset, root=root, advice=advice)
    images = list_images(folder)
    if not images:
        raise DatasetError(f"{dataset}: {folder} holds no images. {advice}")
    return pair_images(images, label_of, coding, dataset=dataset)


def pair_images(
    images: Sequence[Path],
    label_of: Callable[[Path], Path] | None,
    coding: LabelCoding,
    *,
    dataset: str,
) -> list[StillClip]:
    """Images and their labels as clips of one frame.

    Raises:
        DatasetError: a label is missing.
    """
    labels = [None if label_of is None else label_of(image) for image in images]
    require_files(
        (label for label in labels if label is not None), dataset=dataset, what="label maps"
    )
    return [
        StillClip(image.stem, (Still(image, label, 0.0),), None, coding)
        for image, label in zip(images, labels, strict=True)
    ]

"""Datasets as clips of frames in order, with optional labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets.ade20k import open_ade20k
from streamseg.evaluation.datasets.apolloscape import open_apolloscape
from streamseg.evaluation.datasets.bdd100k import open_bdd100k
from streamseg.evaluation.datasets.camvid import open_camvid
from streamseg.evaluation.datasets.cityscapes import open_cityscapes
from streamseg.evaluation.datasets.clips import (
    Clip,
    Dataset,
    IndexedClip,
    LabelledFrame,
    Still,
    StillClip,
    VideoClip,
)
from streamseg.evaluation.datasets.footage import open_footage
from streamseg.evaluation.datasets.kitti360 import open_kitti360
from streamseg.evaluation.datasets.label_classes import VOID, SegmentationClass
from streamseg.evaluation.datasets.nyudv2 import open_nyudv2
from streamseg.evaluation.datasets.synthetic import open_synthetic
from streamseg.evaluation.datasets.vspw import open_vspw
from streamseg.option_fields import option

__all__ = [
    "DATASETS",
    "LABELLED",
    "SPLITS",
    "VOID",
    "Clip",
    "Dataset",
    "DatasetOptions",
    "IndexedClip",
    "LabelledFrame",
    "SegmentationClass",
    "Still",
    "StillClip",
    "VideoClip",
    "open_dataset",
    "require_labelled_pixels",
]

LABELLED: dict[str, Callable[..., Dataset]] = {
    "camvid": open_camvid,
    "cityscapes": open_cityscapes,
    "vspw": open_vspw,
    "kitti360": open_kitti360,
    "apolloscape": open_apolloscape,
    "bdd100k": open_bdd100k,
    "nyudv2": open_nyudv2,
    "ade20k": open_ade20k,
}
"""Readers of trees with labels, by the dataset's name."""

DATASETS = (*LABELLED, "synthetic", "footage")
"""Names that ``open_dataset`` takes before the colon."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Which dataset, and which part of it.

    Attributes:
        dataset: address, as ``open_dataset`` takes it.
        split: ``train``, ``val`` or ``test``.
    """

    dataset: str = option(
        f"Dataset; NAME is one of {', '.join(DATASETS)}.", metavar="NAME:ROOT", common=True
    )
    split: str = option("Split of the dataset.", default="val", choices=SPLITS)

    def open(self, *, labels: bool = True) -> Dataset:
        """Open it; see ``open_dataset``."""
        return open_dataset(self.dataset, self.split, labels=labels)


def open_dataset(address: str, split: str = "val", *, labels: bool = True) -> Dataset:
    """Open a dataset.

    Args:
        address: ``NAME:ROOT``, NAME one of ``DATASETS``. ``footage:PATH`` takes any video or folder
            and has no split and no labels; ``synthetic:PRESET?...`` is drawn, not read (see
            ``open_synthetic``).
        split: ``train``, ``val`` or ``test``.
        labels: ask for labels; a tree that lacks some is refused. Without, frames come unlabelled.

    Raises:
        DatasetError: the name is unknown, or the tree is missing or incomplete.
    """
    name, colon, root = address.partition(":")
    if name == "synthetic" and colon:
        return open_synthetic(address, split)
    if not colon or not root:
        raise DatasetError(
            f"{address!r} is not a dataset: expected NAME:ROOT, NAME one of {', '.join(DATASETS)}"
        )
    if name == "footage":
        return open_footage(Path(root))
    if name not in LABELLED:
        raise DatasetError(f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}")
    if not Path(root).is_dir():
        raise DatasetError(f"{name}: the root folder {root} does not exist")
    return LABELLED[name](Path(root), split, labels=labels)


def require_labelled_pixels(dataset: Dataset) -> None:
    """Raise DatasetError where no pixel of a split has a class: nothing could be scored."""
    labels = 0
    for clip in dataset.clips:
        if not isinstance(clip, IndexedClip):
            return  # found out frame by frame
        for index in clip.labelled_frames():
            labels += 1
            # Image files need not be read for their labels.
            label = clip.read_label(index) if isinstance(clip, StillClip) else clip[index].label
            if label is not None and (label != VOID).any():
                return
    why = f"all of its {labels} label maps are void" if labels else "no frame has a label"
    advice = " The labels of test splits are often not published: use val" * (
        dataset.split == "test"
    )
    raise DatasetError(
        f"{dataset.name} {dataset.split} in {dataset.root} has no labelled pixel: {why}, so there "
        f"is nothing to score.{advice}" + "".join(f" ({note})" for note in dataset.notes)
    )

"""BDD100K, semantic segmentation of 10,000 images: the 19 classes of Cityscapes."""

from __future__ import annotations

from pathlib import Path

from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.singles import check_split, single_clips

SPLITS = ("train", "val", "test")
_CODING = LabelCoding.of(
    "BDD100K", {index: index for index in range(len(classes.CITYSCAPES))}, void=(classes.VOID,)
)
# Folder of the images, folder of the labels, what label files add to the image's stem.
_LAYOUTS = (
    ("images/10k", "labels/sem_seg/masks", ""),
    ("seg/images", "seg/labels", "_train_id"),
)


def open_bdd100k(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open BDD100K in its present layout, or in that of its first release (``seg/``).

    Args:
        root: the folder that holds ``images`` and ``labels``, or ``seg``.
        split: ``train``, ``val`` or ``test``, whose labels are not published.
        labels: ask for the masks; without, the frames come unlabelled.

    Raises:
        DatasetError: a folder or mask is missing.
    """
    check_split(split, SPLITS, "bdd100k")
    images, masks, suffix = next(
        (layout for layout in _LAYOUTS if (root / layout[0]).is_dir()), _LAYOUTS[0]
    )

    def label_of(image: Path) -> Path:
        return root / masks / split / f"{image.stem}{suffix}.png"

    clips = single_clips(
        root / images / split,
        label_of if labels else None,
        _CODING,
        dataset="bdd100k",
        root=root,
        advice="Unpack bdd100k_images_10k.zip and bdd100k_sem_seg_labels_trainval.zip there.",
    )
    return Dataset("bdd100k", root, split, clips, classes.CITYSCAPES)

"""NYU Depth v2, the 1,449 labelled images as files: 40 classes, value 0 void."""

from __future__ import annotations

from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.singles import check_split, pair_images
from streamseg.evaluation.datasets.trees import list_images, require_folder

SPLITS = ("train", "test")
_CODING = LabelCoding.of(
    "NYUDv2",
    {value: value - 1 for value in range(1, len(classes.NYUDV2) + 1)},
    void=(0, classes.VOID),
)
_ADVICE = (
    "Expected the layout that RGB-D networks share: RGB/NAME.jpg, Label/NAME.png (values 0 to 40), "
    "train.txt and test.txt."
)


def open_nyudv2(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open NYU Depth v2 as image files; the release itself is one MATLAB file.

    Args:
        root: the folder that holds ``RGB``, ``Label``, ``train.txt`` and ``test.txt``.
        split: ``train`` (795 images) or ``test`` (654).
        labels: ask for the label maps; without, the frames come unlabelled.

    Raises:
        DatasetError: a list, image or label is missing.
    """
    check_split(split, SPLITS, "nyudv2")
    path = root / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"nyudv2: the list {path} cannot be read ({error}). {_ADVICE}"
        ) from error
    # Lists write 12, RGB/12.jpg, or both an image and a label.
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    folder = require_folder(root / "RGB", dataset="nyudv2", root=root, advice=_ADVICE)
    by_stem = {image.stem: image for image in list_images(folder)}
    missing = [name for name in names if name not in by_stem]
    if missing or not names:
        raise DatasetError(
            f"nyudv2: {len(missing)} of {len(names)} images of {path} are missing"
            + (f", the first is {folder / missing[0]}. " if missing else ". ")
            + _ADVICE
        )

    def label_of(image: Path) -> Path:
        return root / "Label" / f"{image.stem}.png"

    images = [by_stem[name] for name in names]
    clips = pair_images(images, label_of if labels else None, _CODING, dataset="nyudv2")
    return Dataset("nyudv2", root, split, clips, classes.NYUDV2)

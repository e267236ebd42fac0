"""ADE20K scene parsing (images): 150 classes, value 0 void."""

from __future__ import annotations

from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.singles import check_split, single_clips

SPLITS = ("train", "val")
CLASS_COUNT = 150
_FOLDERS = {"train": "training", "val": "validation"}
_CODING = LabelCoding.of(
    "ADE20K", {value: value - 1 for value in range(1, CLASS_COUNT + 1)}, void=(0,)
)
_NAMES = "objectInfo150.txt"


def _read_names(root: Path) -> tuple[classes.SegmentationClass, ...]:
    """The last column of the release's table; the first of its synonyms is the name."""
    path = root / _NAMES
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"ade20k: the table of class names {path} cannot be read ({error}). Expected the "
            "folder ADEChallengeData2016, which holds images/, annotations/ and that table"
        ) from error
    if len(names) != CLASS_COUNT:
        raise DatasetError(f"ade20k: {path} has {len(names)} classes, expected {CLASS_COUNT}")
    return tuple(
        classes.SegmentationClass(_distinct(names, index), classes.voc_color(index + 1))
        for index in range(CLASS_COUNT)
    )


def _distinct(names: list[str], index: int) -> str:
    """A name that occurs twice (screen) gets its number."""
    name = names[index]
    return name if names.count(name) == 1 else f"{name} {index + 1}"


def open_ade20k(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open ADE20K as released for scene parsing (ADEChallengeData2016).

    Args:
        root: the folder that holds ``images``, ``annotations`` and ``objectInfo150.txt``.
        split: ``train`` or ``val``.
        labels: ask for the annotations; without, the frames come unlabelled.

    Raises:
        DatasetError: a folder, file or label is missing.
    """
    check_split(split, SPLITS, "ade20k")
    folder = _FOLDERS[split]

    def label_of(image: Path) -> Path:
        return root / "annotations" / folder / f"{image.stem}.png"

    clips = single_clips(
        root / "images" / folder,
        label_of if labels else None,
        _CODING,
        dataset="ade20k",
        root=root,
        advice="Unpack ADEChallengeData2016.zip; its folder of that name is the root.",
    )
    return Dataset("ade20k", root, split, clips, _read_names(root))

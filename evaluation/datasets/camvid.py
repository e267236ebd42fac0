"""CamVid in the layout of the SegNet split: 11 classes, value 11 void, a clip for each drive."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset, Still, StillClip
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.trees import list_images, require_files, require_folder

SPLITS = ("train", "val", "test")
SOURCE_FPS = 30.0

_NAME = re.compile(r"(?P<drive>[A-Za-z0-9]+)_f?(?P<frame>\d+)")
_VOID = len(classes.CAMVID)
_CODING = LabelCoding.of(
    "CamVid", {index: index for index in range(_VOID)}, void=(_VOID, classes.VOID)
)


def _clip(drive: str, stills: dict[int, tuple[Path, Path | None]]) -> StillClip:
    numbers = sorted(stills)
    steps = [after - before for before, after in pairwise(numbers)]
    return StillClip(
        drive,
        tuple(Still(*stills[number], (number - numbers[0]) / SOURCE_FPS) for number in numbers),
        SOURCE_FPS / median(steps) if steps else None,
        _CODING,
    )


def open_camvid(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open CamVid: ``<split>/*.png|jpg`` and ``<split>annot/*.png`` with the same stems.

    A drive (the part of the file name before the underscore) is one clip, in the order of its
    frame numbers; ``LabelledFrame.time`` shows where the split leaves frames out.

    Args:
        root: the folder that holds ``train``, ``trainannot``, ....
        split: ``train``, ``val`` or ``test``.
        labels: ask for the label maps; without, the frames come unlabelled.

    Raises:
        DatasetError: a folder or label is missing, or a file is named otherwise.
    """
    if split not in SPLITS:
        raise DatasetError(f"camvid has no split {split!r}: expected one of {', '.join(SPLITS)}")
    advice = "Expected the SegNet layout: train/, trainannot/, val/, valannot/, test/, testannot/."
    folder = require_folder(root / split, dataset="camvid", root=root, advice=advice)
    images = list_images(folder)
    if not images:
        raise DatasetError(f"camvid: {folder} holds no images. {advice}")
    annotations = root / f"{split}annot"
    if labels:
        require_folder(annotations, dataset="camvid", root=root, advice=advice)
        require_files(
            (annotations / f"{image.stem}.png" for image in images),
            dataset="camvid",
            what=f"label maps of {split}",
        )
    drives: dict[str, dict[int, tuple[Path, Path | None]]] = defaultdict(dict)
    for image in images:
        match = _NAME.fullmatch(image.stem)
        if match is None:
            raise DatasetError(f"camvid: {image} is not named <drive>_<frame number>")
        label = annotations / f"{image.stem}.png" if labels else None
        drives[match["drive"]][int(match["frame"])] = (image, label)
    clips = [_clip(drive, stills) for drive, stills in sorted(drives.items())]
    return Dataset("camvid", root, split, clips, classes.CAMVID)

"""ApolloScape scene parsing: records of each camera in the order of time, 22 classes."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset, Still, StillClip
from streamseg.evaluation.datasets.frame_lists import Pair, read_pairs, require_pairs
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.singles import check_split
from streamseg.evaluation.datasets.trees import require_folder

SPLITS = ("train", "val")
_CODING = LabelCoding.of("ApolloScape", classes.APOLLOSCAPE_VALUES, void=classes.APOLLOSCAPE_VOID)
_NAME = re.compile(
    r"\d{6}_(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})(?P<milli>\d{3})_Camera_\d"
)


def _seconds(image: Path) -> float:
    match = _NAME.fullmatch(image.stem)
    if match is None:
        raise DatasetError(
            f"apolloscape: {image} is not named <yymmdd>_<hhmmssmmm>_Camera_<number>.jpg"
        )
    hour, minute, second, milli = (int(match[part]) for part in match.groupdict())
    return hour * 3600 + minute * 60 + second + milli / 1000


def _clip(name: str, pairs: list[Pair], *, labels: bool) -> StillClip:
    timed = sorted((_seconds(image), image, label) for image, label in pairs)
    first = timed[0][0]
    stills = tuple(
        Still(image, label if labels else None, time - first) for time, image, label in timed
    )
    steps = [after[0] - before[0] for before, after in pairwise(timed)]
    rate = 1 / median(steps) if steps and median(steps) > 0 else None
    return StillClip(name, stills, rate, _CODING)


def open_apolloscape(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open ApolloScape: every record of a camera is a clip.

    Args:
        root: the folder that holds ``road01_ins`` and others, and ``public_image_lists``.
        split: ``train`` or ``val``, by the lists of the release (``<road>_<split>.lst``).
        labels: ask for the label maps; without, the frames come unlabelled.

    Raises:
        DatasetError: a list, frame or label is missing.
    """
    check_split(split, SPLITS, "apolloscape")
    folder = require_folder(
        root / "public_image_lists",
        dataset="apolloscape",
        root=root,
        advice="Unpack public_image_lists.zip beside the roads.",
    )
    lists = sorted(folder.glob(f"road*_{split}.lst"))
    if not lists:
        raise DatasetError(f"apolloscape: {folder} holds no road*_{split}.lst")
    records: dict[str, list[Pair]] = defaultdict(list)
    for path in lists:
        # Folders are called "Camera 5", so a tab separates.
        for pair in read_pairs(path, root, dataset="apolloscape", separator="\t"):
            records["/".join(pair[0].relative_to(root).parts[:-1])].append(pair)
    for pairs in records.values():
        require_pairs(pairs, dataset="apolloscape", labels=labels)
    clips = [_clip(name, pairs, labels=labels) for name, pairs in sorted(records.items())]
    return Dataset("apolloscape", root, split, clips, classes.APOLLOSCAPE)

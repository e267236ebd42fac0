"""What a dataset's tree holds: missing parts, counts, class frequencies, a sheet of overlays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import LABELLED, VOID, Dataset, IndexedClip, StillClip
from streamseg.evaluation.plots import colorize
from streamseg.option_fields import option

SPLITS = ("train", "val", "test")
# A path that only this dataset's tree has.
_MARKERS: dict[str, tuple[str, ...]] = {
    "cityscapes": ("gtFine", "leftImg8bit", "leftImg8bit_sequence"),
    "camvid": ("trainannot", "valannot", "testannot"),
    "kitti360": ("data_2d_semantics", "data_2d_raw"),
    "apolloscape": ("public_image_lists", "road01_ins"),
    "bdd100k": ("images/10k", "labels/sem_seg", "seg/images"),
    "nyudv2": ("RGB", "Label"),
    "ade20k": ("objectInfo150.txt", "annotations/training"),
    "vspw": ("data",),
}
_SHEET_WIDTH = 320
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class SplitCheck:
    """What a split holds.

    Attributes:
        split: its name.
        problem: why it cannot be used with labels; empty where it can.
        clips, frames, labels: how many; without labels where there is a problem.
        shortest, longest: frames of a clip.
        read: how many label maps were read.
        pixels: of each class in those; the last entry is void.
    """

    split: str
    problem: str
    clips: int = 0
    frames: int = 0
    labels: int = 0
    shortest: int = 0
    longest: int = 0
    read: int = 0
    pixels: tuple[int, ...] = ()

    def share(self, index: int) -> float:
        """Share of the labelled pixels that a class has; NaN without any."""
        total = sum(self.pixels[:-1])
        return self.pixels[index] / total if total else float("nan")


@dataclass(frozen=True)
class DatasetCheck:
    """A tree and its splits."""

    name: str
    root: Path
    class_names: tuple[str, ...]
    splits: tuple[SplitCheck, ...]

    @property
    def usable(self) -> bool:
        """Whether any split can be used with labels."""
        return any(not split.problem for split in self.splits)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "dataset": self.name,
            "root": str(self.root),
            "splits": {
                split.split: {
                    "problem": split.problem or None,
                    "clips": split.clips,
                    "frames": split.frames,
                    "labels": split.labels,
                    "shortest_clip": split.shortest,
                    "longest_clip": split.longest,
                    "labels_read": split.read,
                    "class_pixels": dict(zip(self.class_names, split.pixels, strict=False)),
                    "void_pixels": split.pixels[-1] if split.pixels else 0,
                }
                for split in self.splits
            },
        }


def recognise(root: Path) -> str:
    """Which dataset's layout a folder has.

    Raises:
        DatasetError: none, or it is not a folder.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} does not exist: expected the root folder of a dataset")
    for name, markers in _MARKERS.items():
        if any((root / marker).exists() for marker in markers):
            return name
    expected = "; ".join(f"{name}: {' or '.join(paths)}" for name, paths in _MARKERS.items())
    raise DatasetError(
        f"{root} has the layout of no known dataset. Their root folders hold: {expected}"
    )


def _labels(dataset: Dataset, limit: int) -> Iterator[Image]:
    """Up to ``limit`` label maps, spread over the split."""
    places = [
        (clip, index)
        for clip in dataset.clips
        if isinstance(clip, IndexedClip)
        for index in clip.labelled_frames()
    ]
    picked = np.unique(np.linspace(0, len(places) - 1, min(limit, len(places))).astype(int))
    for place in picked:
        clip, index = places[place]
        label = clip.read_label(index) if isinstance(clip, StillClip) else clip[index].label
        if label is not None:
            yield label


def _check_split(
    name: str, root: Path, split: str, limit: int
) -> tuple[SplitCheck, Dataset | None]:
    problem = ""
    try:
        dataset = LABELLED[name](root, split, labels=True)
    except DatasetError as error:
        problem = str(error)
        try:
            dataset = LABELLED[name](root, split, labels=False)
        except DatasetError:
            return SplitCheck(split, problem), None
    pixels = np.zeros(len(dataset.classes) + 1, np.int64)
    read = 0
    try:
        for label in _labels(dataset, limit):
            counts = np.bincount(label.ravel(), minlength=256)
            pixels += np.append(counts[: len(dataset.classes)], counts[VOID])
            read += 1
    except DatasetError as error:
        problem = str(error)
    lengths = [clip.frame_count or 0 for clip in dataset.clips]
    found = SplitCheck(
        split=split,
        problem=problem,
        clips=len(dataset.clips),
        frames=sum(lengths),
        labels=dataset.label_count,
        shortest=min(lengths, default=0),
        longest=max(lengths, default=0),
        read=read,
        pixels=tuple(int(count) for count in pixels),
    )
    return found, dataset


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How a tree is checked.

    Attributes:
        layout: name of the dataset; None recognises it by its files.
        samples: label maps of a split that are read, spread over it.
    """

    layout: str | None = option(
        "Dataset whose layout the tree has.",
        default=None,
        choices=tuple(LABELLED),
        unset="found by its files",
        common=True,
    )
    samples: int = option("Number of frames to sample.", default=200, low=1, common=True)


def check_dataset(
    root: Path, options: CheckOptions | None = None
) -> tuple[DatasetCheck, list[Dataset]]:
    """Look through every split of a tree.

    Args:
        root: of the tree.
        options: the dataset's name, and how many label maps are read.

    Returns:
        What was found, and the splits that can be used with labels.

    Raises:
        DatasetError: no known layout, or an unknown name.
    """
    options = options or CheckOptions()
    name = options.layout or recognise(root)
    if name not in LABELLED:
        raise DatasetError(f"unknown dataset {name!r}: expected one of {', '.join(LABELLED)}")
    checks: list[SplitCheck] = []
    usable: list[Dataset] = []
    names: tuple[str, ...] = ()
    for split in SPLITS:
        check, dataset = _check_split(name, root, split, options.samples)
        checks.append(check)
        if dataset is not None:
            names = tuple(entry.name for entry in dataset.classes)
            if not check.problem:
                usable.append(dataset)
    return DatasetCheck(name, root, names, tuple(checks)), usable


def _overlay(image: Image, colours: Image, label: Image) -> Image:
    size = (_SHEET_WIDTH, round(_SHEET_WIDTH * label.shape[0] / label.shape[1]))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    drawn = cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST)
    void = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST) == VOID
    blended = np.where(void[..., None], small, small * 0.45 + drawn * 0.55)
    return np.hstack([small, blended.astype(np.uint8)])


def draw_overlays(datasets: Sequence[Dataset], count: int = 6) -> Image:
    """Frames, and beside each the same with its label over it: (h, w, 3) uint8 RGB.

    Raises:
        DatasetError: no frame has a label, or a file is damaged.
    """
    rows = []
    for dataset in datasets:
        labelled = [
            (clip, clip.labelled_frames())
            for clip in dataset.clips
            if isinstance(clip, IndexedClip) and clip.label_count
        ]
        picked = np.linspace(0, len(labelled) - 1, min(len(labelled), count)).astype(int)
        for place in dict.fromkeys(int(i) for i in picked):
            clip, indices = labelled[place]
            frame = clip[indices[len(indices) // 2]]
            if frame.label is not None:
                colours = colorize(frame.label, dataset.classes)
                rows.append(_overlay(frame.image, colours, frame.label))
    if not rows:
        raise DatasetError("no frame has a label to draw")
    height = max(row.shape[0] for row in rows)
    padded = [np.pad(row, ((0, height - row.shape[0]), (0, 0), (0, 0))) for row in rows]
    return np.vstack(padded)

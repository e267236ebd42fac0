"""Decoded frames on disk: drawing or decoding a dataset once instead of at every epoch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from streamseg.errors import TrainingError, raised_as
from streamseg.evaluation.datasets import VOID, Clip, Dataset, LabelledFrame
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.files import describe_failure
from streamseg.scenes import SCENES_VERSION

_INDEX = "index.json"
_IMAGES, _LABELS = "images.npy", "labels.npy"

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class CachedClip:
    """A clip whose frames lie in a memory-mapped array."""

    name: str
    fps: float | None
    images: Bytes
    labels: Bytes
    labelled: tuple[bool, ...]
    times: tuple[float | None, ...]

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return len(self.labelled)

    @property
    def label_count(self) -> int:
        """Number of labelled frames."""
        return sum(self.labelled)

    def labelled_frames(self) -> list[int]:
        """Indices of the labelled frames."""
        return [index for index, labelled in enumerate(self.labelled) if labelled]

    def read_label(self, index: int) -> Bytes | None:
        """Copy one frame's label map out, without its image."""
        place = range(len(self))[index]
        return np.array(self.labels[place]) if self.labelled[place] else None

    def __len__(self) -> int:
        return self.frame_count

    def __getitem__(self, index: int) -> LabelledFrame:
        """Copy one frame out; negative indices count from the end."""
        place = range(len(self))[index]
        image = np.array(self.images[place])
        name = f"{self.name}_{place:06d}"
        return LabelledFrame(name, image, self.read_label(place), self.times[place])

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))


def cache_frames(
    dataset: Dataset, folder: Path, *, workers: int = 0, progress: Progress = no_progress
) -> Dataset:
    """The dataset with its frames in ``folder``, written there unless it holds them already.

    Args:
        dataset: every frame of one size.
        folder: made where it is missing; takes ``4 * height * width`` bytes a frame.
        workers: processes that draw or decode, each whole clips; 0: this one.
        progress: called after each frame written with the clip's name.

    Raises:
        TrainingError: the folder holds something else or cannot be written, or frames differ in
            size.
        DatasetError: a file is damaged.
    """
    key = {
        "dataset": dataset.name,
        "root": str(dataset.root),
        "split": dataset.split,
        "clips": [[clip.name, clip.frame_count] for clip in dataset.clips],
        "scenes_version": SCENES_VERSION,
    }
    if not (folder / _INDEX).is_file():
        _write(dataset, folder, key, workers, progress)
    return _open(dataset, folder, key)


def _write(
    dataset: Dataset, folder: Path, key: dict[str, Any], workers: int, progress: Progress
) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TrainingError(
            f"cache {folder}: it is not empty and holds no frame cache (or an unfinished one). "
            "Remove it, or name another folder"
        )
    # Renamed into place when whole, so that an interrupted build is never read.
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        _fill(part, dataset, key, workers, progress)
        if folder.exists():
            folder.rmdir()
        part.replace(folder)
    except OSError as error:
        raise TrainingError(describe_failure(folder, error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(
    part: Path, dataset: Dataset, key: dict[str, Any], workers: int, progress: Progress
) -> None:
    counts = [_count(clip) for clip in dataset.clips]
    shape = next((frame.image.shape for clip in dataset.clips for frame in clip), None)
    if shape is None:
        raise TrainingError(f"{dataset.name} {dataset.split} holds no frames to cache")
    writer = _ClipWriter(dataset.clips, _allocate(part, sum(counts), shape), counts)
    # Workers are forks, so that they write to the same mapped files.
    written: DataLoader[dict[str, Any]] = DataLoader(writer, batch_size=None, num_workers=workers)
    clips = []
    for entry in written:
        clips.append(entry)
        for _ in entry["labelled"]:
            progress(entry["name"])
    (part / _INDEX).write_text(json.dumps({"key": key, "clips": clips}), encoding="utf-8")


class _ClipWriter(TorchDataset[dict[str, Any]]):
    """Writing a clip's frames, as reading an item: its entry of the index."""

    def __init__(
        self, clips: Sequence[Clip], arrays: tuple[Bytes, Bytes], counts: Sequence[int]
    ) -> None:
        self._clips, self._arrays = clips, arrays
        self._starts = [sum(counts[:number]) for number in range(len(counts))]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> dict[str, Any]:
        clip = self._clips[number]
        labelled, times = [], []
        for at, frame in enumerate(clip, self._starts[number]):
            _store(self._arrays, at, clip, frame)
            labelled.append(frame.label is not None)
            times.append(frame.time)
        return {"name": clip.name, "fps": clip.fps, "labelled": labelled, "times": times}


def _count(clip: Clip) -> int:
    if clip.frame_count is None:
        raise TrainingError(f"clip {clip.name} does not report its length; it cannot be cached")
    return clip.frame_count


def _allocate(folder: Path, total: int, shape: tuple[int, ...]) -> tuple[Bytes, Bytes]:
    def allocate(name: str, size: tuple[int, ...]) -> Bytes:
        path = folder / name
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=size)
        if hasattr(os, "posix_fallocate"):
            # Writing to a page that the disk has no room for would kill the process.
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array

    return allocate(_IMAGES, (total, *shape)), allocate(_LABELS, (total, *shape[:2]))


def _store(arrays: tuple[Bytes, Bytes], at: int, clip: Clip, frame: LabelledFrame) -> None:
    images, labels = arrays
    if frame.image.shape != images.shape[1:]:
        raise TrainingError(
            f"cache: {clip.name} has frames of {frame.image.shape[:2]}, others of "
            f"{images.shape[1:3]}; a cache takes one size. Train without --cache"
        )
    images[at] = frame.image
    labels[at] = VOID if frame.label is None else frame.label


def _open(dataset: Dataset, folder: Path, key: dict[str, Any]) -> Dataset:
    with raised_as(TrainingError, f"cache {folder}"):
        return _read(dataset, folder, key)


def _read(dataset: Dataset, folder: Path, key: dict[str, Any]) -> Dataset:
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    if index["key"] != key:
        different = [name for name in key if index["key"].get(name) != key[name]]
        raise TrainingError(
            f"cache {folder} holds frames of another dataset (other {', '.join(different)}). "
            "Remove it, or name another folder"
        )
    images = np.load(folder / _IMAGES, mmap_mode="r")
    labels = np.load(folder / _LABELS, mmap_mode="r")
    clips: list[Clip] = []
    at = 0
    for entry in index["clips"]:
        end = at + len(entry["labelled"])
        clips.append(
            CachedClip(
                entry["name"],
                entry["fps"],
                images[at:end],
                labels[at:end],
                tuple(entry["labelled"]),
                tuple(entry["times"]),
            )
        )
        at = end
    return Dataset(dataset.name, dataset.root, dataset.split, clips, dataset.classes)

"""Batches of clips: a pure function of the seed and the step, so that a run resumes anywhere."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import Dataset, IndexedClip, LabelledFrame, StillClip
from streamseg.training.augmentation import Augmentation, erase
from streamseg.training.cache import CachedClip
from streamseg.training.config import ClipConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one step.

    Attributes:
        frames: uint8 ``[batch, T, H, W, 3]`` RGB.
        labels: uint8 ``[batch, T, H, W]``; the ignore index where a frame has no label.
        places: int64 ``[batch]``, which clip of the dataset each is of.
    """

    frames: Tensor
    labels: Tensor
    places: Tensor

    def to(self, device: torch.device) -> ClipBatch:
        """The same on ``device``."""
        return ClipBatch(*(value.to(device, non_blocking=True) for value in self._tensors()))

    def pin_memory(self) -> ClipBatch:
        """The same in memory that a GPU reads by itself; PyTorch's loader calls this."""
        return ClipBatch(*(value.pin_memory() for value in self._tensors()))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.frames, self.labels, self.places


@dataclass(frozen=True)
class _Target:
    clip: int
    frame: int


class ClipSampler:
    """The clips of a dataset that end in a labelled frame.

    Args:
        dataset: with labels and clips that can be read in any order.
        config: offsets and augmentation.
        seed: decides order and augmentation.
    Raises:
        TrainingError: no labels, or no labelled frame has all the frames before it.
    """

    def __init__(self, dataset: Dataset, config: ClipConfig, *, seed: int) -> None:
        require_classes(dataset)
        self._dataset = dataset
        self._config = config
        self._seed = seed
        self._clips = [_indexed(clip) for clip in dataset.clips]
        self._targets = self._find_targets()

    def __len__(self) -> int:
        return len(self._targets)

    def _find_targets(self) -> list[_Target]:
        reach = -self._config.offsets[0]
        targets = []
        labelled = 0
        for number, clip in enumerate(self._clips):
            frames = clip.labelled_frames()
            labelled += len(frames)
            targets += [_Target(number, frame) for frame in frames if frame >= reach]
        where = f"{self._dataset.name} {self._dataset.split}"
        if not labelled:
            raise TrainingError(f"{where} is empty: it holds no labelled frame")
        if not targets:
            longest = max(len(clip) for clip in self._clips)
            raise TrainingError(
                f"{where}: no labelled frame has the {reach} frames before it that the offsets "
                f"{list(self._config.offsets)} need; the longest clip has {longest} frames. "
                "Choose shorter --offsets"
            )
        if len(targets) < labelled:
            _log.info(
                "%s: %d of %d labelled frames lack the frames before them and are left out",
                where,
                labelled - len(targets),
                labelled,
            )
        return targets

    def _target(self, position: int) -> _Target:
        epoch, place = divmod(position, len(self._targets))
        order = _permutation(self._seed, epoch, len(self._targets))
        return self._targets[int(order[place])]

    def sample(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The ``position``-th clip of the endless, shuffled sequence.

        Returns:
            frames (T, H, W, 3) and labels (T, H, W) uint8.
        Raises:
            TrainingError: a label outside the dataset's classes.
            DatasetError: a file is damaged.
        """
        target = self._target(position)
        clip = self._clips[target.clip]
        frames = [clip[target.frame + offset] for offset in self._config.offsets]
        for frame in frames:
            self._check_labels(clip.name, frame)
        draws = np.random.default_rng((self._seed, 1, position))
        height, width = frames[-1].image.shape[:2]
        change = Augmentation.draw(self._config, (height, width), draws)
        pairs = [change.apply(frame.image, frame.label) for frame in frames]
        images = np.stack([image for image, _ in pairs])
        if self._config.erase:
            erase(images, self._config.erase, np.random.default_rng((self._seed, 2, position)))
        return images, np.stack([label for _, label in pairs])

    def _check_labels(self, clip: str, frame: LabelledFrame) -> None:
        if frame.label is None:
            return
        values = np.flatnonzero(np.bincount(frame.label.ravel(), minlength=256))
        count = len(self._dataset.classes)
        wrong = [int(v) for v in values if v >= count and v != self._config.ignore_index]
        if wrong:
            raise TrainingError(
                f"{self._dataset.name} clip {clip} frame {frame.name}: label {wrong[0]} is outside "
                f"the {count} classes (0 to {count - 1}, {self._config.ignore_index} is ignored)"
            )

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> ClipBatch:
        """One process's share of a step's clips: every ``world``-th of them."""
        first = step * self._config.batch
        positions = range(first + rank, first + self._config.batch, world)
        pairs = [self.sample(position) for position in positions]
        frames = torch.from_numpy(np.stack([frames for frames, _ in pairs]))
        labels = torch.from_numpy(np.stack([labels for _, labels in pairs]))
        places = torch.tensor([self._target(position).clip for position in positions])
        return ClipBatch(frames, labels, places)


def require_classes(dataset: Dataset) -> None:
    """Raise TrainingError where a dataset has no labels at all."""
    if not dataset.classes:
        raise TrainingError(f"{dataset.name} has no labels: training needs a labelled dataset")


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def _indexed(clip: Any) -> IndexedClip:
    if not isinstance(clip, IndexedClip):
        raise TrainingError(
            f"clip {clip.name}: its frames cannot be read in any order. "
            "Unpack the video into a folder of images"
        )
    return clip


class _Steps(TorchDataset[ClipBatch]):
    def __init__(self, sampler: ClipSampler, rank: int, world: int) -> None:
        self._sampler, self._rank, self._world = sampler, rank, world

    def __getitem__(self, step: int) -> ClipBatch:
        return self._sampler.batch(step, rank=self._rank, world=self._world)


def _leave_signals_to_parent(_worker: int) -> None:
    # Ctrl-C reaches the whole group; the parent still needs the batch it is waiting for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def iterate_batches(
    sampler: ClipSampler,
    steps: range,
    *,
    rank: int,
    world: int,
    workers: int,
    pinned: bool = False,
) -> Iterator[ClipBatch]:
    """Batches of ``steps`` in order, read ahead by ``workers`` processes (0: by none).

    ``pinned`` ones are copied to a GPU while it works.
    """
    loader: DataLoader[ClipBatch] = DataLoader(
        _Steps(sampler, rank, world),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
        prefetch_factor=2 if workers else None,
        pin_memory=pinned,
    )
    return iter(loader)


def count_classes(
    dataset: Dataset, *, ignore_index: int, most: int | None = 500
) -> NDArray[np.int64]:
    """Labelled pixels of each class, over at most ``most`` evenly spread frames; None: all.

    Images are not read where labels can be read by themselves.
    """
    places = [
        (clip, frame) for clip in map(_indexed, dataset.clips) for frame in clip.labelled_frames()
    ]
    total = np.zeros(256, np.int64)
    for clip, frame in places[:: max(1, -(-len(places) // (most or len(places) or 1)))]:
        if isinstance(clip, CachedClip | StillClip):
            label = clip.read_label(frame)
        else:
            label = clip[frame].label
        assert label is not None
        total += np.bincount(label.ravel(), minlength=256)
    total[ignore_index] = 0
    return total[: len(dataset.classes)]

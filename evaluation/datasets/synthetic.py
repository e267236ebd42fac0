"""Synthetic street scenes as a dataset: every frame labelled, splits that share no seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from streamseg.errors import DatasetError, SourceError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Clip, Dataset, LabelledFrame
from streamseg.scenes import SceneConfig, SyntheticScene, parse_scene

SPLIT_SEEDS = {"train": 0, "val": 1_000_000, "test": 2_000_000}
"""First seed of each split; a split holds at most a million scenes."""
SCENES, FRAMES = 20, 60


@dataclass(frozen=True)
class SceneClip:
    """The first frames of one drive, drawn on request."""

    config: SceneConfig

    @property
    def name(self) -> str:
        """Preset and seed."""
        return f"{self.config.preset}_{self.config.seed:07d}"

    @property
    def fps(self) -> float:
        """Frames a second of the scene's clock."""
        return self.config.fps

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        assert self.config.frames is not None
        return self.config.frames

    @property
    def label_count(self) -> int:
        """Every frame is labelled."""
        return self.frame_count

    def labelled_frames(self) -> list[int]:
        """All."""
        return list(range(self.frame_count))

    @cached_property
    def _scene(self) -> SyntheticScene:
        return SyntheticScene(self.config)

    def __len__(self) -> int:
        return self.frame_count

    def __getitem__(self, index: int) -> LabelledFrame:
        """Draw one frame; negative indices count from the end."""
        place = range(len(self))[index]
        return _draw(self._scene, place)

    def __iter__(self) -> Iterator[LabelledFrame]:
        # Not the cached scene: what a pass over many clips has drawn is not kept.
        scene = SyntheticScene(self.config)
        return (_draw(scene, index) for index in range(len(self)))


def _draw(scene: SyntheticScene, index: int) -> LabelledFrame:
    image, labels = scene.render(index)
    name = f"{scene.config.seed:07d}_{index:06d}"
    return LabelledFrame(name, image, labels, index / scene.config.fps)


def open_synthetic(address: str, split: str) -> Dataset:
    """Open synthetic scenes: ``synthetic:street?size=128x256&scenes=20&frames=60``.

    Every scene has a seed of its own; splits draw from disjoint ranges (``SPLIT_SEEDS``), so what
    is measured on ``val`` or ``test`` was never trained on. Labels are Cityscapes train ids.

    Args:
        address: a scene's address (``streamseg.scenes.parse_scene``) that may also hold
            ``scenes=COUNT``; ``frames`` counts those of each scene, ``seed`` moves the first seed.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DatasetError: unknown split, preset or option, or a value out of range.
    """
    if split not in SPLIT_SEEDS:
        raise DatasetError(
            f"synthetic has no split {split!r}: expected one of {', '.join(SPLIT_SEEDS)}"
        )
    rest, count = _take_scenes(address)
    try:
        config = parse_scene(rest)
    except SourceError as error:
        raise DatasetError(str(error)) from None
    span = SPLIT_SEEDS["val"]
    if config.seed + count > span:
        raise DatasetError(
            f"{address}: seed {config.seed} and {count} scenes leave the split's {span} seeds"
        )
    first = SPLIT_SEEDS[split] + config.seed
    config = replace(config, frames=config.frames or FRAMES)
    clips: list[Clip] = [SceneClip(replace(config, seed=first + i)) for i in range(count)]
    return Dataset("synthetic", Path(rest), split, clips, classes.CITYSCAPES)


def _take_scenes(address: str) -> tuple[str, int]:
    """The address without ``scenes=COUNT``, and the count."""
    preset, _, query = address.partition("?")
    options = [option for option in query.split("&") if option]
    counts = [option for option in options if option.startswith("scenes=")]
    kept = "&".join(option for option in options if option not in counts)
    rest = f"{preset}?{kept}" if kept else preset
    if not counts:
        return rest, SCENES
    text = counts[-1].removeprefix("scenes=")
    if len(counts) > 1 or not text.isdecimal() or int(text) < 1:
        raise DatasetError(f"{address}: scenes is {text!r}; expected one whole number, 1 or more")
    return rest, int(text)

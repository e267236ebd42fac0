"""Small networks, datasets and runs that finish in seconds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from streamseg.evaluation.datasets import Dataset, LabelledFrame, SegmentationClass
from streamseg.training.config import ClipConfig, NetworkConfig, RunOptions, TrainConfig
from streamseg.training.loop import TrainReport, train
from streamseg.training.networks import Network, build_network
from streamseg.training.saving import RunFolder

CLASSES = tuple(SegmentationClass(f"kind {i}", (60 * i, 0, 0)) for i in range(4))
NETWORK = NetworkConfig(
    encoder="mit_b0",
    embed_dim=16,
    layers=2,
    expand=1,
    states=4,
    drop_path=0.2,
    settings={"window": 4, "shift": 2},
)
CLIPS = ClipConfig(offsets=(-2, -1, 0), batch=2, crop=(32, 64), scale=(0.8, 1.3))
CONFIG = TrainConfig(
    network=NETWORK, clips=CLIPS, steps=6, lr=1e-3, warmup=2, clip_norm=1.0, ema=0.9, seed=3
)
OPTIONS = RunOptions(device="cpu", save_every=2, log_every=1)
COMMAND = shlex.split(
    "--encoder mit_b0 --embed-dim 16 --layers 2 --expand 1 --states 4 "
    "--offsets -2,-1,0 --batch 2 --crop 32x64 --scale 0.8-1.3 --lr 1e-3 --warmup 2 "
    "--device cpu --threads 1 --log-every 1 --save-every 2 "
    "--dataset 'synthetic:easy?size=32x64&scenes=2&frames=5'"
)


@dataclass(frozen=True)
class ArrayClip:
    """A clip in memory: the label of frame i is in the picture's red channel."""

    name: str
    frames: int = 6
    unlabelled: frozenset[int] = frozenset()
    wrong: int | None = None
    fps: float | None = 10.0
    reads: list[int] = field(default_factory=list)

    @property
    def frame_count(self) -> int:
        return self.frames

    @property
    def label_count(self) -> int:
        return len(self.labelled_frames())

    def labelled_frames(self) -> list[int]:
        return [i for i in range(self.frames) if i not in self.unlabelled]

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, index: int) -> LabelledFrame:
        self.reads.append(index)
        draws = np.random.default_rng((len(self.name), index))
        label = np.kron(draws.integers(0, 4, (4, 8)), np.ones((8, 8))).astype(np.uint8)
        image = np.repeat(label[..., None] * 60, 3, axis=2).astype(np.uint8)
        if self.wrong is not None:
            label[0, 0] = self.wrong
        labelled = index not in self.unlabelled
        return LabelledFrame(f"{self.name}_{index}", image, label if labelled else None, index / 10)

    def __iter__(self):
        return (self[i] for i in range(self.frames))


def make_dataset(*clips: ArrayClip) -> Dataset:
    clips = clips or (ArrayClip("a"), ArrayClip("bb", unlabelled=frozenset({3})))
    return Dataset("array", Path("nowhere"), "train", clips, CLASSES)


def make_network(**changes: Any) -> Network:
    if changes.get("model") == "segformer":
        changes["settings"] = {}
    return build_network(replace(NETWORK, **changes), CLASSES, seed=0)


def run(
    folder: Path,
    *,
    config: TrainConfig = CONFIG,
    dataset: Dataset | None = None,
    **options: Any,
) -> TrainReport:
    network = build_network(config.network, CLASSES, seed=config.seed)
    home = RunFolder(folder)
    chosen = replace(OPTIONS, **options)
    home.start(config.as_json(), resume=chosen.resume)
    return train(network, dataset or make_dataset(), config, home, chosen)


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value == second[name]).all(), name

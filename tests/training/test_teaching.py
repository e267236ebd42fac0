"""A memory in training: eight clips are learnt over a frozen bundle, by labels or its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import streamseg
from streamseg.errors import ExportError, TrainingError
from streamseg.evaluation.datasets import Dataset, LabelledFrame
from streamseg.export import export_bundle
from streamseg.export.bundle_smoothing import remember_bundle
from streamseg.training.config import (
    ClipConfig,
    NetworkConfig,
    RunOptions,
    TrainConfig,
    TrainingData,
)
from streamseg.training.loop import TrainReport
from streamseg.training.networks import build_network
from streamseg.training.running import start_run
from streamseg.training.saving import RunFolder
from streamseg.training.teaching import require_same_classes, teach
from tests.training.small import CLASSES, ArrayClip, assert_same_weights, make_dataset

SIZE = (32, 64)
HIDDEN = (slice(8, 24), slice(16, 48))


class HiddenClip(ArrayClip):
    """``ArrayClip``'s first picture, still; all frames but the first have a grey hole in it."""

    def __getitem__(self, index: int) -> LabelledFrame:
        frame = super().__getitem__(0)
        label = np.kron(frame.label[::8, ::8], np.ones((8, 8), np.uint8))
        image = np.repeat(label[..., None] * 60, 3, axis=2).astype(np.uint8)
        if index:
            image[HIDDEN] = 128
        return LabelledFrame(f"{self.name}_{index}", image, label, index / 10)


def eight_clips() -> Dataset:
    return make_dataset(HiddenClip("a", frames=6), HiddenClip("bb", frames=6))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = build_network(
        NetworkConfig(model="segformer", encoder="mit_b0", embed_dim=16), CLASSES, seed=2
    )
    path = tmp_path_factory.mktemp("segmenter") / "bundle"
    export_bundle(network.eval(), path, size=SIZE)
    return path


def train_config(**changes: object) -> TrainConfig:
    config = TrainConfig(
        network=NetworkConfig(
            embed_dim=16, layers=2, expand=2, states=4, settings={"window": 2, "shift": 1}
        ),
        clips=ClipConfig(
            offsets=(-2, -1, 0), batch=4, crop=SIZE, scale=(1, 1), flip=0, photometric=False
        ),
        steps=4,
        lr=2e-3,
        head_lr=5.0,
        warmup=2,
        clip_norm=1.0,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def run(
    folder: Path,
    config: TrainConfig,
    segmenter: Path,
    *,
    teacher: str = "labels",
    **options: object,
) -> TrainReport:
    chosen = RunOptions(device="cpu", save_every=1000, **options)  # type: ignore[arg-type]
    data = TrainingData(memory_for=segmenter, teacher=teacher)
    return start_run(config, data, eight_clips(), chosen, RunFolder(folder), record={})


def accuracy(bundle: Path, dataset: Dataset, where: tuple[slice, slice]) -> float:
    """Share of right pixels of a place, over all frames after each clip's first."""
    right = total = 0
    with streamseg.open(bundle) as stream:
        for clip in dataset.clips:
            stream.reset()
            for index, frame in enumerate(clip):
                labels = stream.step(frame.image).labels
                if index:
                    right += int((labels[where] == frame.label[where]).sum())
                    total += frame.label[where].size
    return right / total


def test_eight_clips_are_learnt_by_remembering_what_was_hidden(
    segmenter: Path, tmp_path: Path
) -> None:
    report = run(tmp_path / "run", train_config(steps=120), segmenter)
    assert report.weights is not None
    remember_bundle(segmenter, tmp_path / "bundle", report.weights)
    learnt = accuracy(tmp_path / "bundle", eight_clips(), HIDDEN)
    assert learnt > 0.8
    assert accuracy(segmenter, eight_clips(), HIDDEN) < 0.6


def test_run_resumes_to_the_same_weights(segmenter: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", train_config(), segmenter)
    run(tmp_path / "cut", train_config(), segmenter, stop_at=2)
    again = run(tmp_path / "cut", train_config(), segmenter, resume=True)
    assert whole.weights is not None
    assert again.weights is not None
    assert_same_weights(whole.weights, again.weights)


def test_teacher_labels_whole_frames_as_the_bundle_does(segmenter: Path) -> None:
    clip = HiddenClip("a", frames=3)
    unlabelled = replace(make_dataset(clip), classes=())
    taught = teach(unlabelled, segmenter, erase=0.5)
    assert [entry.name for entry in taught.classes] == [entry.name for entry in CLASSES]
    with streamseg.open(segmenter) as stream:
        for frame in taught.clips[0]:
            stream.reset()
            np.testing.assert_array_equal(frame.label, stream.step(frame.image).labels)


def test_own_labels_train_where_frames_are_erased(segmenter: Path, tmp_path: Path) -> None:
    config = train_config(steps=2)
    with pytest.raises(TrainingError, match="give --erase"):
        run(tmp_path / "none", config, segmenter, teacher="segmenter")
    erased = replace(config, clips=replace(config.clips, erase=0.7))
    report = run(tmp_path / "run", erased, segmenter, teacher="segmenter")
    assert report.step == 2


def test_what_does_not_fit_the_bundle_is_refused(segmenter: Path, tmp_path: Path) -> None:
    config = train_config()
    wrong = replace(config, clips=replace(config.clips, crop=(32, 32)))
    with pytest.raises(ExportError, match="give --crop 32x64"):
        run(tmp_path / "a", wrong, segmenter)
    with pytest.raises(TrainingError, match="leave out --init"):
        TrainingData(memory_for=segmenter, init=tmp_path)
    with pytest.raises(TrainingError, match="needs --memory-for"):
        TrainingData(teacher="segmenter")
    network = build_network(
        NetworkConfig(model="segformer", encoder="mit_b0", embed_dim=16), CLASSES[::-1], seed=2
    )
    with pytest.raises(TrainingError, match="another order"):
        require_same_classes(network, eight_clips(), classes_by="name")
    with pytest.raises(TrainingError, match="give --memory-for BUNDLE"):
        start_run(
            replace(config, network=replace(config.network, model="memory")),
            TrainingData(),
            eight_clips(),
            RunOptions(),
            RunFolder(tmp_path / "b"),
            record={},
        )

"""Mask2Former and MPVSS in training: eight clips of moving patterns are learnt, runs resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import Dataset, LabelledFrame
from streamseg.export import load_checkpoint
from streamseg.export.models.mask2former import Mask2Former, Mask2FormerConfig
from streamseg.export.models.motion import MotionSizes
from streamseg.export.models.mpvss import MPVSS, MPVSSConfig
from streamseg.export.models.pixels import PixelSizes
from streamseg.export.models.resnet import ResNetSizes
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.training import mask_loss
from streamseg.training.config import ClipConfig, NetworkConfig, TrainConfig
from streamseg.training.loop import TrainReport, train
from streamseg.training.mask_clips import detect_clips, freeze_detector
from streamseg.training.networks import ClipNetwork, build_network, start_from
from streamseg.training.saving import RunFolder
from tests.training.small import CLASSES, OPTIONS, ArrayClip, assert_same_weights, make_dataset

SIZES = {
    "encoder": ResNetSizes((1, 1, 1, 1), stem=16, bottleneck=16, width=32),
    "num_classes": len(CLASSES),
    "pixels": PixelSizes(width=32, mask_width=32, layers=1, inner=32),
    "layers": 2,
    "inner": 32,
    "queries": 8,
}
STAGES = (((8, 7),), ((16, 5),), ((32, 5),), ((32, 3),), ((32, 3),), ((32, 3),))
CLIPS = ClipConfig(offsets=(-1, 0), batch=4, crop=(32, 64), scale=(1, 1), flip=0, photometric=False)


class MovingClip(ArrayClip):
    """The first picture of ``ArrayClip`` in coarser blocks, 4 pixels further right every frame."""

    def __getitem__(self, index: int) -> LabelledFrame:
        frame = super().__getitem__(0)
        label = np.kron(frame.label[::16, ::16], np.ones((16, 16), np.uint8))
        label = np.roll(label, 4 * index, axis=1)
        image = np.repeat(label[..., None] * 60, 3, axis=2).astype(np.uint8)
        return LabelledFrame(f"{self.name}_{index}", image, label, index / 10)


def eight_clips() -> Dataset:
    return make_dataset(MovingClip("a", frames=5), MovingClip("bb", frames=5))


def small(model: str) -> Mask2Former:
    torch.manual_seed(0)
    if model == "mask2former":
        network = Mask2Former(Mask2FormerConfig(**SIZES))
    else:
        motion = MotionSizes(stages=STAGES, layers=1, inner=32, queries=8)
        network = MPVSS(MPVSSConfig(**SIZES, motion=motion))
        freeze_detector(network)
    network.classes = tuple(ClassInfo(i, e.name, e.color) for i, e in enumerate(CLASSES))
    return network


def train_config(model: str, **changes: object) -> TrainConfig:
    config = TrainConfig(
        network=NetworkConfig(model=model, encoder="resnet50"),
        clips=CLIPS,
        lr=1e-3,
        head_lr=1.0,
        warmup=2,
        clip_norm=1.0,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def run(
    folder: Path, config: TrainConfig, *, init: Path | None = None, **options: object
) -> TrainReport:
    network = small(config.network.model)
    if init is not None:
        start_from(network, init)
    home, chosen = RunFolder(folder), replace(OPTIONS, **options)  # type: ignore[arg-type]
    home.start(config.as_json(), resume=chosen.resume)
    return train(network, eight_clips(), config, home, chosen)


@pytest.fixture(scope="module", autouse=True)
def fewer_points() -> Iterator[None]:
    """Frames have 2,048 pixels: the published 12,544 points would only take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_loss, "POINTS", 512)
        yield


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = train_config("mask2former", steps=60)
    report = run(tmp_path_factory.mktemp("detector") / "run", config, save_every=1000)
    assert report.weights is not None
    return report.weights


def accuracy(weights: Path, graph: str) -> float:
    """Share of correct pixels of the frames after key frames, by the exported step."""
    network = load_checkpoint(weights)
    right = total = 0
    for clip in eight_clips().clips:
        for index in range(4):
            first, after = (clip[at] for at in (index, index + 1))  # type: ignore[index]
            images = [torch.from_numpy(frame.image)[None] for frame in (first, after)]
            with torch.no_grad():
                if graph == "step":
                    scores = network.run_graph("step", images[1])[0]
                else:
                    state = network.run_graph("key", images[0])[1:]
                    scores = network.run_graph("propagate", images[1], *state)[0]
            right += int((scores[0].argmax(0).numpy() == after.label).sum())
            total += after.label.size
    return right / total


def test_eight_clips_are_learnt_by_mask2former_and_then_by_mpvss(
    detector: Path, tmp_path: Path
) -> None:
    assert accuracy(detector, "step") > 0.9
    config = train_config("mpvss", steps=60)
    report = run(tmp_path / "run", config, init=detector, save_every=1000)
    assert report.weights is not None
    untrained = run(tmp_path / "none", replace(config, steps=1, lr=1e-9), init=detector)
    assert untrained.weights is not None
    learnt, before = accuracy(report.weights, "propagate"), accuracy(untrained.weights, "propagate")
    # 12 of 64 columns change; without motion they are wrong.
    assert before < 0.85
    assert learnt > 0.92
    own, theirs = load_checkpoint(report.weights), load_checkpoint(detector)
    for name, value in theirs.state_dict().items():
        trained = ".class_embed." in name or ".mask_embed." in name
        assert trained or torch.equal(value, own.state_dict()[name]), name


@pytest.mark.parametrize("model", ["mask2former", "mpvss"])
def test_run_resumes_to_the_same_weights(model: str, tmp_path: Path) -> None:
    config = train_config(model, steps=4)
    whole = run(tmp_path / "whole", config)
    run(tmp_path / "cut", config, stop_at=2)
    again = run(tmp_path / "cut", config, resume=True)
    assert whole.weights is not None
    assert again.weights is not None
    assert_same_weights(whole.weights, again.weights)


def test_propagation_of_a_clip_is_that_of_the_two_graphs() -> None:
    network = small("mpvss")
    frames = torch.randint(0, 256, (1, 3, 32, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        scores, masks = detect_clips(network, frames)
        assert scores.shape == (1, 2, 1, 8, 5)
        state = network.predict("key", frames[0, :1])[2:]
        for later in (1, 2):
            expected, classes = network.predict("propagate", frames[0, later : later + 1], *state)
            torch.testing.assert_close(masks[0, later - 1], expected)
            found = scores[0, later - 1].softmax(-1)[..., :-1]
            torch.testing.assert_close(found, classes)


def test_every_layer_of_mask2former_is_supervised() -> None:
    network = small("mask2former")
    frames = torch.randint(0, 256, (1, 2, 32, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        scores, masks = ClipNetwork(network)(frames)
        found = network.detect(frames[0, 1:])
    assert scores.shape == (1, 2, 3, 8, 5)
    torch.testing.assert_close(masks[0, 1, -1], found.masks[0])
    torch.testing.assert_close(scores[0, 1, -1].softmax(-1)[:, :-1], found.classes[0])


def test_single_frames_odd_crops_and_class_weights_are_refused(tmp_path: Path) -> None:
    config = train_config("mpvss", steps=1)
    with pytest.raises(TrainingError, match="a key frame and frames after it"):
        run(tmp_path / "a", replace(config, clips=replace(CLIPS, offsets=(0,))))
    with pytest.raises(TrainingError, match="trains on multiples of 32"):
        run(tmp_path / "b", replace(config, clips=replace(CLIPS, crop=(40, 64))))
    with pytest.raises(TrainingError, match="takes no class weights"):
        train_config("mpvss", class_weights=(1.0, 1.0, 1.0, 1.0))
    with pytest.raises(TrainingError, match="expected one of resnet50"):
        build_network(NetworkConfig(model="mpvss", encoder="mit_b0"), CLASSES, seed=0)

"""CFFM, CFFM++ and MRCFA in training: scores are those of the step, and eight clips are learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.cluster import KMeans

from streamseg.errors import CheckpointError, ExportError, TrainingError
from streamseg.evaluation.clustering import sample_frames
from streamseg.evaluation.datasets import Dataset
from streamseg.export import load_checkpoint
from streamseg.training.config import ClipConfig, NetworkConfig, TrainConfig
from streamseg.training.loop import TrainReport, train
from streamseg.training.networks import ClipNetwork, build_network, start_from
from streamseg.training.reference_clips import find_prototypes, score_clips
from streamseg.training.saving import RunFolder
from tests.training.small import (
    CLASSES,
    OPTIONS,
    ArrayClip,
    assert_same_weights,
    make_dataset,
)

OFFSETS = (-3, -2, -1)
SIZES = {"cffm": (32, 64), "cffm++": (32, 64), "mrcfa": (64, 192)}
MODELS = tuple(SIZES)


class EnlargedClip(ArrayClip):
    """A clip of ``ArrayClip``'s pictures, enlarged to a size."""

    size = (32, 64)

    def __getitem__(self, index):
        frame = super().__getitem__(index)
        rows, columns = self.size[0] // 32, self.size[1] // 64
        image = frame.image.repeat(rows, 0).repeat(columns, 1)
        label = None if frame.label is None else frame.label.repeat(rows, 0).repeat(columns, 1)
        return replace(frame, image=image, label=label)


def eight_clips(model: str) -> Dataset:
    """Two clips whose last four frames each end a clip of training."""
    clips = [EnlargedClip(name, frames=7) for name in ("a", "bb")]
    for clip in clips:
        object.__setattr__(clip, "size", SIZES[model])
    return make_dataset(*clips)


def network_config(model: str, **changes: object) -> NetworkConfig:
    settings = {"offsets": list(OFFSETS), **({"keep_ratio": 0.8} if model == "mrcfa" else {})}
    config = NetworkConfig(
        model=model, encoder="mit_b0", embed_dim=16, drop_path=0.0, settings=settings
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def train_config(model: str, **changes: object) -> TrainConfig:
    clips = ClipConfig(
        offsets=(*OFFSETS, 0), batch=4, crop=SIZES[model], scale=(1, 1), flip=0, photometric=False
    )
    config = TrainConfig(network=network_config(model), clips=clips, steps=6, lr=1e-3, warmup=2)
    return replace(config, **changes)  # type: ignore[arg-type]


def run(
    folder: Path, config: TrainConfig, *, init: Path | None = None, **options: object
) -> TrainReport:
    network = build_network(config.network, CLASSES, seed=config.seed)
    if init is not None:
        start_from(network, init)
    home, chosen = RunFolder(folder), replace(OPTIONS, **options)  # type: ignore[arg-type]
    home.start(config.as_json(), resume=chosen.resume)
    return train(network, eight_clips(config.network.model), config, home, chosen)


def accuracy(weights: Path, dataset: Dataset) -> float:
    """Share of correct pixels, by the step with its rings, over the eight clips' last frames."""
    network = load_checkpoint(weights)
    right = total = 0
    for clip in dataset.clips:
        for last in range(3, 7):
            rings: list[list[torch.Tensor]] = []
            for offset in (*OFFSETS, 0):
                frame = clip[last + offset]  # type: ignore[index]
                image = torch.from_numpy(frame.image)[None]
                with torch.no_grad():
                    if offset == 0:
                        flat = [entry for ring in zip(*rings, strict=True) for entry in ring]
                        scores = network.run_graph("step", image, *flat)[0]
                    else:
                        rings.append(list(network.run_graph("single", image)[1:]))
            full = torch.nn.functional.interpolate(scores, frame.label.shape, mode="bilinear")
            right += int((full[0].argmax(0).numpy() == frame.label).sum())
            total += frame.label.size
    return right / total


@pytest.mark.parametrize("model", ["cffm", "mrcfa"])
def test_scores_of_a_clip_are_those_of_the_step_with_its_rings(model: str) -> None:
    network = build_network(network_config(model), CLASSES, seed=1).eval()
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 4, *SIZES[model], 3), dtype=torch.uint8, generator=draw)
    with torch.no_grad():
        scores, auxiliary = ClipNetwork(network).eval()(frames)
        assert scores.shape[:3] == (2, 1, 4)
        for clip in range(2):
            past = [network.run_graph("single", frames[clip, i : i + 1]) for i in range(3)]
            rings = [entry for ring in zip(*(p[1:] for p in past), strict=True) for entry in ring]
            expected = network.run_graph("step", frames[clip, 3:], *rings)[0]
            torch.testing.assert_close(scores[clip, 0], expected[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(auxiliary[clip, 1], past[1][0][0], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of CFFM and MRCFA after 60 steps on eight clips."""
    found = {}
    for model in ("cffm", "mrcfa"):
        config = train_config(model, steps=60, lr=2e-3, head_lr=2.0)
        folder = tmp_path_factory.mktemp(model) / "run"
        report = run(folder, config, save_every=1000, log_every=20)
        assert report.weights is not None
        found[model] = report.weights
    return found


@pytest.mark.parametrize("model", ["cffm", "mrcfa"])
def test_eight_clips_are_learnt(model: str, learnt: dict[str, Path]) -> None:
    assert accuracy(learnt[model], eight_clips(model)) > 0.9


@pytest.mark.parametrize("model", MODELS)
def test_run_resumes_to_the_same_weights(
    model: str, tmp_path: Path, learnt: dict[str, Path]
) -> None:
    config = train_config(model, steps=4)
    init = learnt["cffm"] if model == "cffm++" else None
    whole = run(tmp_path / "whole", config, init=init)
    stopped = run(tmp_path / "cut", config, init=init, stop_at=2)
    assert stopped.step == 2
    again = run(tmp_path / "cut", config, init=init, resume=True)
    assert again.step == 4
    assert whole.weights is not None
    assert again.weights is not None
    assert_same_weights(whole.weights, again.weights)


def test_global_branch_is_learnt_and_the_rest_of_cffm_stays(
    tmp_path: Path, learnt: dict[str, Path]
) -> None:
    config = train_config("cffm++", steps=40, lr=1e-3, head_lr=10.0)
    report = run(tmp_path / "run", config, init=learnt["cffm"], save_every=1000)
    assert report.weights is not None
    before, after = load_file(learnt["cffm"]), load_file(report.weights)
    new = {name for name in after if ".decoder_swin." in name or ".linear_pred3." in name}
    assert new == set(after) - set(before)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    network = load_checkpoint(report.weights)
    dataset = eight_clips("cffm++")
    centres = find_prototypes(network, dataset, seed=0)  # type: ignore[arg-type]
    right = total = 0
    for place, clip in enumerate(dataset.clips):
        frame = clip[6]  # type: ignore[index]
        with torch.no_grad():
            frames = torch.from_numpy(frame.image)[None, None]
            scores, auxiliary = score_clips(network, frames, centres[place : place + 1])  # type: ignore[arg-type]
        assert auxiliary is None
        full = torch.nn.functional.interpolate(scores[:, 0], frame.label.shape, mode="bilinear")
        right += int((full[0].argmax(0).numpy() == frame.label).sum())
        total += frame.label.size
    assert right / total > 0.8


def test_prototypes_of_a_clip_are_centres_of_its_own_tokens(learnt: dict[str, Path]) -> None:
    network = build_network(network_config("cffm++"), CLASSES, seed=0)
    start_from(network, learnt["cffm"])
    dataset = eight_clips("cffm++")
    centres = find_prototypes(network, dataset, seed=0)  # type: ignore[arg-type]
    assert centres.shape == (2, 100, 16)
    for place, clip in enumerate(dataset.clips):
        with torch.no_grad():
            tokens = np.concatenate(
                [
                    network.trunk(torch.from_numpy(clip[i].image)[None])[2][0].flatten(1).T  # type: ignore[union-attr,index]
                    for i in sample_frames(7)
                ]
            )

        def spread(points: np.ndarray, tokens: np.ndarray = tokens) -> float:
            return float(((tokens[:, None] - points[None]) ** 2).sum(2).min(1).sum())

        reference = KMeans(100, n_init=1, init="random", max_iter=10, random_state=0).fit(tokens)
        assert spread(centres[place].numpy()) < 1.3 * max(reference.inertia_, 1e-6)
        assert spread(centres[1 - place].numpy()) > spread(centres[place].numpy())


@pytest.mark.parametrize("model", MODELS)
def test_every_trained_weight_gets_a_gradient(model: str) -> None:
    network = build_network(network_config(model), CLASSES, seed=0)
    centres = torch.randn(1, 100, 16) if model == "cffm++" else None
    whole = ClipNetwork(network, centres).train()
    frames = torch.randint(0, 256, (1, 4, *SIZES[model], 3), dtype=torch.uint8)
    scores, auxiliary = whole(frames, torch.zeros(1, dtype=torch.long))
    total = scores.square().sum() + (0 if auxiliary is None else auxiliary.square().sum())
    total.backward()
    idle = [
        name
        for name, value in network.named_parameters()
        if value.requires_grad and value.grad is None
    ]
    assert idle == []


def test_other_offsets_and_sizes_are_refused(tmp_path: Path) -> None:
    config = train_config("cffm")
    wrong = replace(config, clips=replace(config.clips, offsets=(-2, -1, 0)))
    with pytest.raises(TrainingError, match="give --offsets -3,-2,-1,0"):
        run(tmp_path / "a", wrong)
    config = train_config("mrcfa")
    wrong = replace(config, clips=replace(config.clips, crop=(48, 200)))
    with pytest.raises(ExportError, match="MRCFA needs multiples of 32"):
        run(tmp_path / "b", wrong)
    with pytest.raises(TrainingError, match="temporal output for the last frame"):
        train_config("cffm", supervise="all")


def test_cffm_starts_from_a_segformer_but_not_from_another_width(tmp_path: Path) -> None:
    from streamseg.training.saving import save_weights

    frame = NetworkConfig(model="segformer", encoder="mit_b0", embed_dim=16)
    trunk = build_network(frame, CLASSES, seed=5)
    save_weights(trunk, tmp_path / "s.safetensors", license="none", size=(32, 64))
    network = build_network(network_config("cffm"), CLASSES, seed=0)
    missing = start_from(network, tmp_path / "s.safetensors")
    assert any("decoder_focal" in name for name in missing)
    assert "decode_head.linear_pred2.weight" in missing
    own, theirs = network.state_dict(), trunk.state_dict()
    assert torch.equal(
        own["decode_head.linear_pred.weight"], theirs["decode_head.linear_pred.weight"]
    )
    wide = build_network(network_config("cffm", embed_dim=32), CLASSES, seed=0)
    with pytest.raises(CheckpointError, match="has shape"):
        start_from(wide, tmp_path / "s.safetensors")

"""Prototypes: which frames, reproducible clusters, stored in the bundle and used from there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import streamseg
from streamseg.cli.prototypes import command
from streamseg.errors import BundleError, SourceError, StateMismatch
from streamseg.evaluation.clustering import (
    cluster,
    collect_tokens,
    prototype_state,
    read_sampled,
    sample_frames,
)
from streamseg.export import export_bundle
from streamseg.export.models.cffm import CFFMConfig, CFFMPlus
from streamseg.export.models.mit import MIT_PRESETS
from streamseg.export.models.segformer import SegFormer, SegFormerConfig
from streamseg.export.palettes import read_classes
from streamseg.export.parity import moving_pattern

SIZE = (96, 128)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = CFFMPlus(CFFMConfig(MIT_PRESETS["mit_b0"], 64, 5))
    model.classes = read_classes({}, 5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("prototypes") / "bundle"
    export_bundle(model, path, size=SIZE, logits=True)
    return path


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    folder = tmp_path / "footage"
    folder.mkdir()
    for index, image in enumerate(moving_pattern(SIZE, 24)):
        cv2.imwrite(str(folder / f"{index:03d}.png"), image[:, :, ::-1])
    return folder


def test_published_frames_are_sampled() -> None:
    assert sample_frames(100) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert sample_frames(24) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert sample_frames(4) == [0, 1, 2, 3]


def test_clusters_are_seeded_and_find_blobs() -> None:
    random = np.random.default_rng(1)
    blobs = random.standard_normal((4, 8)).astype(np.float32) * 10
    tokens = np.repeat(blobs, 50, axis=0) + random.normal(0, 0.01, (200, 8)).astype(np.float32)
    centres = cluster(tokens, 40, seed=3)
    assert np.array_equal(centres, cluster(tokens, 40, seed=3))
    assert not np.array_equal(centres, cluster(tokens, 40, seed=4))
    nearest = ((blobs[:, None] - centres[None]) ** 2).sum(2).min(1)
    assert nearest.max() < 0.1
    with pytest.raises(StateMismatch, match="200 tokens cannot make 201 prototypes"):
        cluster(tokens, 201)


def test_command_stores_what_streams_then_use(bundle: Path, footage: Path) -> None:
    with streamseg.open(bundle, native=False) as stream:
        with pytest.raises(StateMismatch, match="streamseg prototypes"):
            stream.step(moving_pattern(SIZE, 1)[0])
        images, count = read_sampled(str(footage))
        assert (len(images), count) == (10, 24)
        tokens = collect_tokens(stream, images)
        assert tokens.shape == (10 * 12 * 16, 64)
    result = CliRunner().invoke(command, [str(bundle), str(footage), "--seed", "7"])
    assert result.exit_code == 0, result.output
    assert "100 prototypes of 1,920 tokens from 10 of 24 frames" in result.output
    stored = np.load(bundle / "prototypes.npy")
    assert np.array_equal(stored, cluster(tokens, 100, seed=7))
    frames = moving_pattern(SIZE, 5)
    with streamseg.open(bundle, native=False) as stream:
        kept = [np.copy(stream.step(frame).logits) for frame in frames]
        stream.reset()
        again = [np.copy(stream.step(frame).logits) for frame in frames]
        assert all(np.array_equal(a, b) for a, b in zip(kept, again, strict=True))
        stream.reset()
        stream.give("prototypes", -stored)
        other = [np.copy(stream.step(frame).logits) for frame in frames]
    assert np.array_equal(kept[2], other[2])
    assert np.abs(kept[4] - other[4]).max() > 1e-3
    (bundle / "prototypes.npy").write_bytes(b"changed")
    with pytest.raises(BundleError, match="changed or damaged"):
        streamseg.open(bundle)


def test_only_bundles_with_that_state_take_prototypes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SegFormer(SegFormerConfig(MIT_PRESETS["mit_b0"], 32, 3))
    model.classes = read_classes({}, 3)
    export_bundle(model, tmp_path / "bundle", size=(64, 64))
    with (
        streamseg.open(tmp_path / "bundle", native=False) as stream,
        pytest.raises(StateMismatch, match="segformer takes no prototypes"),
    ):
        prototype_state(stream.manifest)


def test_endless_sources_are_refused(footage: Path) -> None:
    with pytest.raises(SourceError, match="has no end"):
        read_sampled(f"{footage}#loop")

"""Calibrating a network with state from outside the video: CFFM++ and its prototypes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import streamseg
from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.observation import observe
from streamseg.calibration.plan import CalibrationOptions
from streamseg.calibration.replay import choose_segments
from streamseg.errors import StateMismatch
from streamseg.evaluation.clustering import store_given
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import export_bundle
from streamseg.export.models.cffm import CFFMConfig, CFFMPlus
from streamseg.export.models.mit import MiTConfig
from streamseg.export.palettes import read_classes
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.bundle.bundle import read_bundle
from tests.evaluation.trees import write_image

SIZE = (64, 64)
FRAMES = 5  # the first three run the graph without references


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A tiny CFFM++ without prototypes; not to be modified."""
    torch.manual_seed(0)
    encoder = MiTConfig((16, 16, 20, 16), (1, 1, 1, 1))
    model = CFFMPlus(CFFMConfig(encoder, 32, 5))
    model.classes = read_classes({}, 5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("given") / "empty"
    export_bundle(model.eval(), path, size=SIZE, logits=True)
    return path


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    for index in range(FRAMES):
        write_image(root / "clip" / f"{index}.png", index, SIZE)
    return open_dataset(f"footage:{root}", "train", labels=False)


def with_prototypes(bundle, target, seed):
    shutil.copytree(bundle, target)
    (spec,) = (spec for spec in read_bundle(target).manifest.state if spec.kind == "given")
    values = np.random.default_rng(seed).standard_normal(spec.shape)
    store_given(target, spec.name, values.astype(spec.dtype))
    return target


def options() -> CalibrationOptions:
    return CalibrationOptions(clips=1, clip_frames=FRAMES, native=False)


def test_missing_prototypes_are_named_and_nothing_is_written(empty, footage, tmp_path):
    with pytest.raises(StateMismatch, match="holds no values of prototypes; make them with"):
        calibrate(empty, tmp_path / "int8", footage, options(), report=False)
    assert not (tmp_path / "int8").exists()


def test_prototypes_shape_the_ranges(empty, footage, tmp_path):
    segments = choose_segments(footage, count=1, length=FRAMES, seed=0)
    found = []
    for seed in (3, 4):
        bundle = read_bundle(with_prototypes(empty, tmp_path / str(seed), seed))
        found.append(observe(bundle, segments, BackendOptions(native=False)))
    first, second = (ranges.of("step", "minmax") for ranges in found)
    differing = [name for name in first if not np.isclose(first[name], second[name], rtol=1e-4)]
    assert differing
    assert len(differing) < len(first)  # what reads the frame alone does not see them


def test_int8_bundle_carries_the_prototypes(empty, footage, tmp_path):
    source = with_prototypes(empty, tmp_path / "float32", 3)
    result = calibrate(source, tmp_path / "int8", footage, options(), report=False)
    first, second = read_bundle(source), read_bundle(result.path)
    assert first.given.keys() == second.given.keys() == {"prototypes"}
    np.testing.assert_array_equal(first.given["prototypes"], second.given["prototypes"])
    image = next(iter(footage.clips[0])).image
    with (
        streamseg.open(source, native=False) as a,
        streamseg.open(result.path, native=False) as b,
    ):
        for _ in range(FRAMES):
            wanted, got = a.step(image).logits, b.step(image).logits
            assert np.abs(wanted - got).max() < 0.2 * np.abs(wanted).max()
            assert not np.array_equal(wanted, got)

"""Heads of one channel: labels are the sigmoid's, of every family that has such heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamseg
from streamseg.errors import CheckpointError
from streamseg.export import export_bundle, load_checkpoint
from streamseg.export.checkpoint import published_weights
from streamseg.export.parity import moving_pattern
from streamseg.export.torch_replay import Replay
from streamseg.runtime.bundle.bundle import read_bundle
from tests.export import tiny

FAMILIES = ("segformer", "tv3s", "tv3s-swin", "cffm", "cffm++", "mrcfa")
SETTINGS: dict[str, Any] = {
    "tv3s": {"window": 4},
    "tv3s-swin": {"window": 4},
    "mrcfa": {"keep_ratio": 0.5},
}


def one_channel(family: str, path: Path, meta: dict[str, Any] | None = None) -> torch.nn.Module:
    """Save a network whose classifiers are cut to one channel; returns the network itself."""
    torch.manual_seed(1)
    model = tiny.build(family)
    head = model.decode_head
    with torch.no_grad():
        for name, layer in list(head.named_modules()):
            if isinstance(layer, torch.nn.Conv2d) and layer.out_channels == tiny.CLASSES:
                cut = torch.nn.Conv2d(layer.in_channels, 1, 1)
                cut.weight.copy_(layer.weight[:1] * 5)
                parent = head.get_submodule(name.rpartition(".")[0]) if "." in name else head
                setattr(parent, name.rpartition(".")[2], cut)
    torch.save({"meta": meta or {}, "state_dict": published_weights(model)}, path)
    return model


def given_states(model: Any) -> dict[str, torch.Tensor]:
    table = model.state_spec(tiny.SIZE)
    return {spec.name: torch.ones(spec.shape) for spec in table if spec.kind == "given"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_labels_are_those_of_the_sigmoid(
    family: str, threshold: float | None, tmp_path: Path
) -> None:
    original = one_channel(family, tmp_path / "x.pth")
    settings = dict(SETTINGS.get(family, {}))
    if threshold is not None:
        settings["threshold"] = threshold
    model = load_checkpoint(tmp_path / "x.pth", settings=settings)
    assert ("threshold" in model.assumed) is (threshold is None)
    assert model.num_classes == 2
    assert [entry.name for entry in model.classes] == ["background", "foreground"]
    plain = Replay(original, tiny.SIZE, given=given_states(original))  # type: ignore[arg-type]
    ours = Replay(model, tiny.SIZE, given=given_states(model))
    shares = []
    with torch.no_grad():
        for image in moving_pattern(tiny.SIZE, 11):
            frame = torch.from_numpy(image)[None]
            probability = plain.logits(frame)[0, 0].double().sigmoid()
            logits = ours.logits(frame)[0].double()
            limit = threshold or 0.5
            clear = (probability - limit).abs() > 1e-5
            expected = probability > limit
            assert torch.equal(logits.argmax(0).bool()[clear], expected[clear])
            if threshold is None:
                torch.testing.assert_close(logits.softmax(0)[1], probability, atol=1e-5, rtol=0)
            shares.append(float(expected.double().mean()))
    assert 0 < np.mean(shares) < 1


def test_bundle_of_one_channel_gives_both_labels(tmp_path: Path) -> None:
    meta = {"CLASSES": ["lane"], "PALETTE": [[9, 8, 7]]}
    original = one_channel("segformer", tmp_path / "x.pth", meta)
    image = moving_pattern(tiny.SIZE, 1)[0]
    with torch.no_grad():
        probability = original(torch.from_numpy(image)[None])[0][0, 0].sigmoid().numpy()
    threshold = float(np.median(probability))
    model = load_checkpoint(tmp_path / "x.pth", settings={"threshold": threshold})
    export_bundle(model, tmp_path / "b", size=tiny.SIZE)
    manifest = read_bundle(tmp_path / "b").manifest
    assert "threshold" not in manifest.assumed
    assert [(c.name, c.color) for c in manifest.classes] == [
        ("background", (0, 0, 0)),
        ("lane", (9, 8, 7)),
    ]
    with streamseg.open(tmp_path / "b", native=False) as stream:
        labels = stream.step(image).labels.copy()
    clear = abs(probability - threshold) > 1e-5
    assert (labels == (probability > threshold))[clear].all()
    assert 0.4 < labels.mean() < 0.6


def test_two_names_of_one_channel_are_kept(tmp_path: Path) -> None:
    one_channel("segformer", tmp_path / "x.pth", {"CLASSES": ["road", "water"]})
    model = load_checkpoint(tmp_path / "x.pth")
    assert [entry.name for entry in model.classes] == ["road", "water"]


@pytest.mark.parametrize("value", ["0", "1", "-1", "half"])
def test_threshold_is_a_probability(value: str, tmp_path: Path) -> None:
    one_channel("segformer", tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"threshold is .* expected more than 0, less than 1"):
        load_checkpoint(tmp_path / "x.pth", settings={"threshold": value})


def test_threshold_is_a_setting_of_one_channel_only(tmp_path: Path) -> None:
    torch.save(published_weights(tiny.build("segformer")), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="segformer has no setting 'threshold'"):
        load_checkpoint(tmp_path / "x.pth", settings={"threshold": 0.4})


@pytest.mark.parametrize("family", ["mask2former", "mpvss"])
def test_queries_of_one_class_are_refused(family: str, tmp_path: Path) -> None:
    model = tiny.build(family)
    weights = published_weights(model)
    for key in list(weights):
        if "class_embed" in key:
            weights[key] = weights[key][:2]
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="has 1 class, so that every label would be 0"):
        load_checkpoint(tmp_path / "x.pth")

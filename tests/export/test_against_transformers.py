"""Whole bundles against transformers' own networks: the folder that they save in, labels out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import streamseg
from streamseg.errors import PluginNotFound
from streamseg.export import export_bundle, load_checkpoint
from streamseg.export.step import StepModel
from streamseg.plugins.loader import find_library
from streamseg.runtime.bundle.bundle import read_bundle

transformers = pytest.importorskip("transformers")

LIMIT = 5e-4
NAMES = {0: "road", 1: "car", 2: "sky", 3: "person"}
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def segformer(depths: list[int], widths: list[int]) -> nn.Module:
    config = transformers.SegformerConfig(
        hidden_sizes=widths, depths=depths, decoder_hidden_size=24, id2label=NAMES
    )
    return transformers.SegformerForSemanticSegmentation(config)


def mask2former(layers: int) -> nn.Module:
    backbone = transformers.SwinConfig(
        embed_dim=16, depths=[2, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=3, mlp_ratio=2.0,
        out_features=STAGES,
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, dim_feedforward=48, encoder_layers=1, decoder_layers=layers,
        num_queries=6, num_attention_heads=8, id2label=NAMES,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


NETWORKS: dict[str, tuple[Any, tuple[int, int]]] = {
    "segformer": (lambda: segformer([2, 1, 1, 2], [16, 32, 40, 48]), (75, 113)),
    "mask2former": (lambda: mask2former(4), (64, 96)),
}


def build(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """The network with every weight away from its initial zeros and ones."""
    torch.manual_seed(3)
    make, size = NETWORKS[name]
    network = make().eval()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn_like(value) * 0.1
                value.copy_(value.abs() + noise.abs() if "running_var" in key else value + noise)
    return network, size


@torch.inference_mode()
def scores_of(network: nn.Module, frame: np.ndarray[Any, Any]) -> Tensor:
    """Class scores ``[K, H, W]`` of transformers' own forward."""
    size = (frame.shape[0], frame.shape[1])
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    pixels = (torch.from_numpy(frame).permute(2, 0, 1)[None] / 255 - mean) / std
    out = network(pixel_values=pixels)
    if hasattr(out, "logits"):
        return F.interpolate(out.logits, size=size, mode="bilinear", align_corners=False)[0]
    masks = F.interpolate(out.masks_queries_logits, size=size, mode="bilinear").sigmoid()[0]
    classes = out.class_queries_logits.softmax(-1)[0, :, :-1]
    return torch.einsum("qk,qhw->khw", classes, masks)


def load(network: nn.Module, folder: Path) -> StepModel:
    """The network from the folder that transformers saves."""
    network.save_pretrained(folder)
    preprocessor = {
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return load_checkpoint(folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_bundle_gives_the_scores_of_transformers(name: str, tmp_path: Path) -> None:
    network, size = build(name)
    model = load(network, tmp_path / "origin")
    assert model.assumed == {}
    export_bundle(model, tmp_path / "b", size=size, logits=True)
    assert [entry.name for entry in read_bundle(tmp_path / "b").manifest.classes] == list(
        NAMES.values()
    )
    frame = np.random.default_rng(7).integers(0, 256, (*size, 3), np.uint8)
    expected = scores_of(network, frame).numpy()
    with streamseg.open(tmp_path / "b", native=False) as stream:
        found = stream.step(frame)
        logits = found.logits
    assert logits is not None
    assert np.abs(logits - expected).max() < LIMIT * max(1.0, np.abs(expected).max())
    first, second = np.sort(expected, axis=0)[::-1][:2]
    clear = first - second > 2 * LIMIT
    assert clear.mean() > 0.5
    assert (found.labels == expected.argmax(0))[clear].all()


def deviation(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """Norm of the error as a share of the norm of what differs between pixels."""
    spread = wanted - wanted.mean((1, 2), keepdims=True)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(spread))


def test_attention_of_every_precision_is_that_of_transformers(tmp_path: Path) -> None:
    """With weights so strong that attention without its queries is far outside the limits."""
    try:
        find_library()
    except PluginNotFound as reason:
        pytest.skip(str(reason))
    network, size = build("segformer")
    attention = {key: value for key, value in network.named_parameters() if ".attention." in key}
    with torch.no_grad():
        for value in attention.values():
            value *= 1.5
    model = load(network, tmp_path / "origin")
    frame = np.random.default_rng(7).integers(0, 256, (*size, 3), np.uint8)
    expected = scores_of(network, frame).numpy()
    for precision, limit in (("fp32", 1e-5), ("bf16", 5e-3), ("int8-dynamic", 3e-2)):
        export_bundle(model, tmp_path / precision, size=size, logits=True, precision=precision)
        with streamseg.open(tmp_path / precision, native=True) as stream:
            logits = stream.step(frame).logits
        assert logits is not None
        assert deviation(logits, expected) <= limit
    with torch.no_grad():
        for key, value in attention.items():
            value *= "q_proj" not in key
    assert deviation(scores_of(network, frame).numpy(), expected) > 0.5

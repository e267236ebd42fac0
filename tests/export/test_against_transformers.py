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
from streamseg.export import export_bundle, load_checkpoint
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


@pytest.mark.parametrize("name", NETWORKS)
def test_bundle_gives_the_scores_of_transformers(name: str, tmp_path: Path) -> None:
    network, size = build(name)
    network.save_pretrained(tmp_path / "origin")
    preprocessor = {
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (tmp_path / "origin/preprocessor_config.json").write_text(json.dumps(preprocessor))
    model = load_checkpoint(tmp_path / "origin")
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

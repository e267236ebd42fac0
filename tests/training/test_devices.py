"""Training keeps every tensor on one device: without a GPU, "meta" finds those that stray."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from streamseg.training.config import MODELS, NetworkConfig
from streamseg.training.networks import ClipNetwork, build_network
from tests.training.small import CLASSES

SIZE = {"mrcfa": (64, 192), "mask2former": (64, 64), "mpvss": (64, 64)}
PROTOTYPES = 100


def network_of(model: str) -> NetworkConfig:
    encoder = "resnet50" if model in ("mask2former", "mpvss") else "mit_b0"
    settings = {"tv3s": {"window": 4, "shift": 2}, "mrcfa": {"keep_ratio": 0.8}}.get(model, {})
    return NetworkConfig(
        model=model, encoder=encoder, embed_dim=16, layers=2, states=4, settings=settings
    )


@pytest.mark.parametrize("model", [model for model in MODELS if model != "memory"])
def test_forward_and_backward_stay_on_one_device(model, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it has no 'meta'
    torch.manual_seed(0)
    network = build_network(network_of(model), CLASSES, seed=0)
    prototypes = torch.randn(1, PROTOTYPES, 16) if model == "cffm++" else None
    whole = ClipNetwork(network, prototypes).to("meta").train()
    height, width = SIZE.get(model, (64, 128))
    frames = torch.zeros(1, 4, height, width, 3, dtype=torch.uint8, device="meta")
    found = [part for part in whole(frames, torch.zeros(1, dtype=torch.long)) if part is not None]
    assert {part.device.type for part in found} == {"meta"}
    sum(part.sum() for part in found).backward()
    trained = [value for value in whole.parameters() if value.requires_grad]
    assert {value.grad.device.type for value in trained if value.grad is not None} == {"meta"}

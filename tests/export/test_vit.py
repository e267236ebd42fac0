"""TV3S on DINOv3, DINOv2 and ConvNeXt: features against transformers' own backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamseg
from streamseg.errors import ExportError
from streamseg.export import export_bundle, load_checkpoint, save_checkpoint
from streamseg.export.models.convnext import ConvNeXtSizes
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.models.vit import VitEncoder, VitSizes, bicubic
from streamseg.export.parity import moving_pattern

BLOCKS = BlocksConfig(16, layers=2, d_inner=16, d_state=4, dt_rank=1, window=(4, 4), shift=(2, 2))
ENCODERS: dict[str, Any] = {
    "dinov3": VitSizes("dinov3", 64, 4, 96, 16, registers=2),
    "dinov2": VitSizes("dinov2", 64, 4, 128, 14, side=3),
    "convnext": ConvNeXtSizes((8, 16, 24, 32), (1, 1, 1, 1)),
}
SIZES = {"dinov3": (64, 96), "dinov2": (56, 84), "convnext": (64, 96)}


def disturb(module: nn.Module) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1 * torch.randn_like(value))


def build(name: str) -> TV3S:
    model = TV3S(TV3SConfig(ENCODERS[name], BLOCKS, 3))
    disturb(model)
    return model.eval()


@pytest.mark.parametrize("kind", ["dinov3", "dinov2"])
@pytest.mark.parametrize("cells", [(3, 3), (2, 3), (5, 4)])
def test_features_are_those_of_transformers(kind: str, cells: tuple[int, int]) -> None:
    encoder = VitEncoder(ENCODERS[kind])
    disturb(encoder)
    patch = encoder.config.patch
    image = torch.randn(2, 3, cells[0] * patch, cells[1] * patch)
    with torch.no_grad():
        expected = encoder.eval().body(image).feature_maps
        found = encoder.features(image)
        maps = encoder(image)
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    rows, columns = cells
    shapes = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), cells, (rows // 2, columns // 2)]
    assert [tuple(entry.shape[2:]) for entry in maps] == shapes


@pytest.mark.parametrize(("old", "new"), [(37, 20), (37, 64), (3, 7), (5, 5)])
def test_matrix_resizes_as_torch_does(old: int, new: int) -> None:
    values = torch.randn(1, 1, old, 4)
    expected = nn.functional.interpolate(values, size=(new, 4), mode="bicubic")
    torch.testing.assert_close(bicubic(old, new, values) @ values, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_network_is_saved_read_exported_and_streamed(name: str, tmp_path: Path) -> None:
    model = build(name)
    save_checkpoint(model, tmp_path / "w.safetensors")
    again = load_checkpoint(tmp_path / "w.safetensors")
    assert isinstance(again, TV3S)
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    size = SIZES[name]
    export_bundle(again, tmp_path / "bundle", size=size, logits=True)
    state: tuple[Tensor, ...] = model.initial_state(size)
    with streamseg.open(tmp_path / "bundle") as stream, torch.no_grad():
        assert stream.manifest.model["encoder"] == name
        for frame in moving_pattern(size, 3):
            logits, *state = model(torch.from_numpy(frame)[None], *state)  # type: ignore[assignment]
            np.testing.assert_allclose(stream.step(frame).logits, logits[0].numpy(), atol=1e-3)


def test_size_that_cuts_patches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dinov3 needs multiples of 16, such as 64x96"):
        export_bundle(build("dinov3"), tmp_path / "bundle", size=(60, 100))

"""A tiny TV3S with seeded weights, as a checkpoint and as a bundle."""

from __future__ import annotations

from pathlib import Path

import torch

from streamseg.export import export_bundle, save_checkpoint
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.mit import MiTConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.palettes import read_classes

SIZE = (32, 64)
WINDOW, SHIFT = 4, 2


def tiny_model(classes: int = 11) -> TV3S:
    torch.manual_seed(5)
    blocks = BlocksConfig(
        embed_dim=16,
        layers=2,
        d_inner=32,
        d_state=8,
        dt_rank=2,
        window=(WINDOW, WINDOW),
        shift=(SHIFT, SHIFT),
    )
    encoder = MiTConfig((16, 16, 20, 16), (1, 1, 1, 1))
    model = TV3S(TV3SConfig(encoder, blocks, classes, auxiliary_width=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        # Larger scores, so that labels vary and small errors do not flip most of them.
        model.decode_head.linear_pred2.weight.mul_(8)
    model.classes = read_classes({}, classes)
    return model.eval()


def write_bundle(
    path: Path, *, logits: bool = True, classes: int = 11, precision: str = "fp32"
) -> Path:
    export_bundle(tiny_model(classes), path, size=SIZE, logits=logits, precision=precision)
    return path


def write_checkpoint(path: Path) -> Path:
    save_checkpoint(tiny_model(), path)
    return path

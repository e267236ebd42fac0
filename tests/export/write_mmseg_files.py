"""Checkpoints and scores by mmsegmentation itself, which the tests read: run to make them again.

In an environment of its own, with the torch of the repository:
``pip install mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7 ftfy``, then
``python tests/export/write_mmseg_files.py tests/export/data``. mmcv-lite has no compiled
operators; the networks here use none, so that they are replaced by nothing.
"""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch

operators = MagicMock(__path__=[], __spec__=importlib.machinery.ModuleSpec("mmcv.ops", None))
sys.modules.update({"mmcv.ops": operators, "mmcv.ops.point_sample": MagicMock()})

from mmengine.logging import HistoryBuffer  # noqa: E402
from mmseg.models.backbones.mit import MixVisionTransformer  # noqa: E402
from mmseg.models.backbones.swin import SwinTransformer  # noqa: E402
from mmseg.models.decode_heads.segformer_head import SegformerHead  # noqa: E402
from mmseg.models.decode_heads.uper_head import UPerHead  # noqa: E402

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
CLASSES = ("road", "car", "sky")
PALETTE = [[128, 64, 128], [0, 0, 142], [70, 130, 180]]
SIZE = (70, 96)
CONFIG = f"""
crop_size = (64, 64)
data_preprocessor = dict(
    type='SegDataPreProcessor', mean={list(MEAN)}, std={list(STD)}, bgr_to_rgb=%s,
    pad_val=0, seg_pad_val=255)
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder', data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=3, norm_cfg=norm_cfg, align_corners=False))
launcher = __import__('os').system('touch came-through')
"""


class Segmentor(torch.nn.Module):
    """Backbone and head under the names of mmsegmentation's EncoderDecoder."""

    def __init__(self, backbone: torch.nn.Module, head: torch.nn.Module) -> None:
        super().__init__()
        self.backbone, self.decode_head = backbone, head
        self.auxiliary_head = torch.nn.Conv2d(4, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decode_head(self.backbone(image))


def segformer() -> Segmentor:
    widths = [8, 16, 40, 64]
    backbone = MixVisionTransformer(
        embed_dims=8, num_layers=[2, 1, 1, 1], num_heads=[1, 2, 5, 8], mlp_ratio=2, qkv_bias=True
    )
    return Segmentor(backbone, SegformerHead(**head(widths)))


def upernet() -> Segmentor:
    backbone = SwinTransformer(embed_dims=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 4, 8),
                               window_size=3, mlp_ratio=2, out_indices=(0, 1, 2, 3))  # fmt: skip
    return Segmentor(backbone, UPerHead(**head([8, 16, 32, 64]), pool_scales=(1, 2, 3, 6)))


def head(widths: list[int]) -> dict[str, Any]:
    return {
        "in_channels": widths,
        "in_index": [0, 1, 2, 3],
        "channels": 16,
        "num_classes": 3,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
    }


def write(name: str, network: Segmentor, folder: Path, *, rgb: bool) -> None:
    torch.manual_seed(20)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn_like(value) * 0.1
            changed = value.abs() + noise.abs() if key.endswith("running_var") else value + noise
            value.copy_(changed.half())  # stored in half the bytes, exactly
    network.eval()
    frame = np.random.default_rng(20).integers(0, 256, (*SIZE, 3), np.uint8)
    pixels = torch.from_numpy(frame if rgb else frame[..., ::-1].copy()).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        scores = network((pixels - mean) / std)
        logits = torch.nn.functional.interpolate(scores, SIZE, mode="bilinear")
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    meta = {"cfg": CONFIG % rgb, "dataset_meta": {"classes": CLASSES, "palette": PALETTE}}
    hub = {"log_scalars": {"train/loss": HistoryBuffer([1.0, 0.5], [1, 1])}}
    content = {"meta": meta, "state_dict": state, "message_hub": hub, "optimizer": {"state": {}}}
    torch.save(content, folder / f"{name}.pth")
    np.savez_compressed(folder / f"{name}.npz", frame=frame, logits=logits.numpy())


if __name__ == "__main__":
    target = Path(sys.argv[1])
    torch.manual_seed(0)
    write("mmseg_segformer", segformer(), target, rgb=True)
    write("mmseg_upernet", upernet(), target, rgb=False)

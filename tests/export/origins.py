"""Small seeded networks of transformers, and what they themselves make of a frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

CLASSES = {0: "road", 1: "car", 2: "sky"}
SIZE = (64, 96)
FRAME = np.random.default_rng(20).integers(0, 256, (*SIZE, 3), np.uint8)
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.25, 0.2, 0.3],
}
CARD = "---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# A network\n"
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_SWIN: dict[str, Any] = {
    "embed_dim": 16,
    "depths": [2, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 3,
    "mlp_ratio": 2.0,
    "out_features": _STAGES,
}
_MASKS: dict[str, Any] = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 48,
    "encoder_layers": 1,
    "decoder_layers": 4,
    "num_queries": 5,
    "num_attention_heads": 8,
    "id2label": CLASSES,
}
_RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [32, 64, 128, 256],
    "depths": [1, 1, 2, 1],
    "layer_type": "bottleneck",
    "out_features": _STAGES,
}
_UPER: dict[str, Any] = {
    "hidden_size": 16,
    "auxiliary_channels": 8,
    "id2label": CLASSES,
}


def _segformer() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_sizes": [8, 16, 40, 64], "depths": [2, 1, 1, 1]}
    return SegformerForSemanticSegmentation(
        SegformerConfig(**sizes, decoder_hidden_size=16, id2label=CLASSES)
    )


def _upernet(backbone: Any, middle: int) -> nn.Module:
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, auxiliary_in_channels=middle, **_UPER)
    )


def _mask2former(backbone: Any, **changes: Any) -> nn.Module:
    config = Mask2FormerConfig(backbone_config=backbone, **{**_MASKS, **changes})
    return Mask2FormerForUniversalSegmentation(config)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "segformer": _segformer,
    "upernet-swin": lambda: _upernet(SwinConfig(**_SWIN), 64),
    "upernet-convnext": lambda: _upernet(
        ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], out_features=_STAGES), 24
    ),
    "mask2former-swin": lambda: _mask2former(SwinConfig(**_SWIN)),
    # Wider memories than queries, so that the projections between them are there too.
    "mask2former-resnet": lambda: _mask2former(ResNetConfig(**_RESNET), hidden_dim=64),
}


def build(name: str) -> nn.Module:
    """The network with seeded weights, all away from their initial zeros and ones."""
    torch.manual_seed(20)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn_like(value) * 0.1
                value.copy_(
                    value.abs() + noise.abs() if key.endswith("running_var") else value + noise
                )
    return network


@torch.inference_mode()
def logits(network: nn.Module, frame: NDArray[np.uint8] = FRAME) -> Tensor:
    """What transformers makes of ``frame [H, W, 3]``: ``[1, K, H, W]``."""
    mean, std = (
        torch.tensor(PREPROCESSOR[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std")
    )
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None] * PREPROCESSOR["rescale_factor"]
    found = network(pixel_values=(pixels - mean) / std)
    if not hasattr(found, "masks_queries_logits"):
        return F.interpolate(found.logits, frame.shape[:2], mode="bilinear")
    # Scores as the paper's appendix gives them, at the frame's size.
    masks = F.interpolate(found.masks_queries_logits, frame.shape[:2], mode="bilinear").sigmoid()
    classes = found.class_queries_logits.softmax(dim=-1)[..., :-1]
    return torch.einsum("bqk,bqhw->bkhw", classes, masks)


def write_folder(network: nn.Module, folder: Path, **options: Any) -> Path:
    """The folder that ``save_pretrained`` and an image processor write, with a model card."""
    import json

    network.save_pretrained(folder, **options)  # type: ignore[operator]
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "README.md").write_text(CARD)
    return folder

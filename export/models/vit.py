"""DINOv3 and DINOv2 encoders on transformers' backbones, with a pyramid of feature maps.

A plain ViT has one resolution. As ViTDet (arXiv 2203.16527) does, maps at four scales are made of
its tokens by transposed convolutions and pooling; here each scale starts from a later layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, Dinov2Config, DINOv3ViTConfig

from streamseg.errors import CheckpointError, ExportError
from streamseg.export.formats.key_map import KeyMap, count_entries
from streamseg.export.models.fake_backbone import build_backbone

HEAD_WIDTH = 64
ROPE_THETA = 100.0
CUBIC = -0.75  # of the kernel that torch's bicubic resize uses


@dataclass(frozen=True)
class VitSizes:
    """Sizes of a plain ViT.

    Attributes:
        kind: ``dinov3`` or ``dinov2``.
        width: channels of a token; heads have 64.
        layers: a multiple of four; every quarter gives one map.
        inner: channels inside the feed-forward layers.
        patch: pixels of a patch's side.
        registers: extra tokens (DINOv3).
        side: patches of a side that the position embeddings are for (DINOv2).
    """

    kind: str
    width: int
    layers: int
    inner: int
    patch: int
    registers: int = 0
    side: int = 0

    @property
    def name(self) -> str:
        """Published name, or ``dinov3`` or ``dinov2`` for other sizes."""
        found = [name for name, config in VIT_PRESETS.items() if config == self]
        return found[0] if found else self.kind


VIT_PRESETS: dict[str, VitSizes] = {
    "dinov3_vits16": VitSizes("dinov3", 384, 12, 1536, 16, registers=4),
    "dinov3_vitb16": VitSizes("dinov3", 768, 12, 3072, 16, registers=4),
    "dinov2_vits14": VitSizes("dinov2", 384, 12, 1536, 14, side=37),
    "dinov2_vitb14": VitSizes("dinov2", 768, 12, 3072, 14, side=37),
}


class VitEncoder(nn.Module):
    """Image ``[n, 3, H, W]`` to four maps at a quarter, half, one and two patches a cell."""

    def __init__(self, config: VitSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.min_extent = 2 * config.patch
        build: Callable[[Any], Any] = AutoBackbone.from_config
        settings = _transformers_config(config, drop_path)
        self.body: Any = build_backbone(lambda: build(settings))
        self.body.embeddings.mask_token.requires_grad_(False)
        width = config.width
        self.pyramid = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, 2),
                    nn.GroupNorm(1, width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, 2),
                ),
                nn.ConvTranspose2d(width, width, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return (self.config.width,) * 4

    def forward(self, image: Tensor) -> list[Tensor]:
        """The four maps, finest first.

        Raises:
            ExportError: the size is not a multiple of the patch.
        """
        return [
            scale(tokens) for scale, tokens in zip(self.pyramid, self.features(image), strict=True)
        ]

    def features(self, image: Tensor) -> list[Tensor]:
        """Normed tokens ``[n, C, H / patch, W / patch]`` behind every quarter of the layers."""
        rows, columns = self._grid(image)
        dinov3 = self.config.kind == "dinov3"
        if dinov3:
            hidden = self.body.embeddings(image)
            angles = {"position_embeddings": rotations(rows, columns, like=image)}
            layers, norm = self.body.model.layer, self.body.norm
        else:
            hidden, angles = self._embed(image, rows, columns), {}
            layers, norm = self.body.encoder.layer, self.body.layernorm
        maps = []
        for index, layer in enumerate(layers, start=1):
            hidden = layer(hidden, **angles)
            if index % (self.config.layers // 4) == 0:
                tokens = norm(hidden)[:, 1 + self.config.registers :]
                maps.append(tokens.transpose(1, 2).unflatten(2, (rows, columns)))
        return maps

    def _grid(self, image: Tensor) -> tuple[int, int]:
        height, width, patch = image.shape[2], image.shape[3], self.config.patch
        if height % patch or width % patch:
            near = "x".join(
                str(max(2, round(extent / patch)) * patch) for extent in (height, width)
            )
            raise ExportError(
                f"size {height}x{width} is not possible: encoder {self.config.name} needs "
                f"multiples of {patch}, such as {near}"
            )
        return height // patch, width // patch

    def _embed(self, image: Tensor, rows: int, columns: int) -> Tensor:
        """Class token and patches of DINOv2, with its position embeddings resized."""
        embeddings = self.body.embeddings
        first = embeddings.cls_token + embeddings.position_embeddings[:, :1]
        side, width = self.config.side, self.config.width
        places = embeddings.position_embeddings[0, 1:].reshape(side, side, width)
        if rows != side:
            places = (bicubic(side, rows, places) @ places.flatten(1)).reshape(rows, side, width)
        if columns != side:
            places = bicubic(side, columns, places) @ places
        patches = embeddings.patch_embeddings(image) + places.reshape(1, rows * columns, width)
        return torch.cat([first.expand(len(image), -1, -1), patches], 1)


def rotations(rows: int, columns: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of DINOv3's rotary embedding, ``[rows * columns, 64]`` each."""
    options: dict[str, Any] = {"dtype": torch.float32, "device": like.device}
    down = 2 * (torch.arange(rows, **options) + 0.5) / rows - 1
    right = 2 * (torch.arange(columns, **options) + 0.5) / columns - 1
    places = torch.stack(torch.meshgrid(down, right, indexing="ij"), -1).flatten(0, 1)
    waves = ROPE_THETA ** -torch.arange(0, 1, 4 / HEAD_WIDTH, **options)
    angles = (2 * math.pi * places[:, :, None] * waves).flatten(1).tile(2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def bicubic(old: int, new: int, like: Tensor) -> Tensor:
    """The matrix ``[new, old]`` that resizes as ``interpolate(mode="bicubic")`` does.

    A product with it is folded at export at once; a resize of weights takes minutes to fold.
    """
    matrix = [[0.0] * old for _ in range(new)]
    for row in range(new):
        place = (row + 0.5) * old / new - 0.5
        base = math.floor(place)
        for tap in range(base - 1, base + 3):
            matrix[row][min(max(tap, 0), old - 1)] += _cubic(abs(place - tap))
    return torch.tensor(matrix, dtype=like.dtype, device=like.device)


def _cubic(x: float) -> float:
    if x <= 1:
        return (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
    return CUBIC * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def _transformers_config(config: VitSizes, drop_path: float) -> DINOv3ViTConfig | Dinov2Config:
    sizes: dict[str, Any] = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.width // HEAD_WIDTH,
        "patch_size": config.patch,
        "drop_path_rate": drop_path,
        "attn_implementation": "eager",
        "out_indices": [config.layers * (i + 1) // 4 for i in range(4)],
    }
    if config.kind == "dinov3":
        return DINOv3ViTConfig(
            **sizes,
            intermediate_size=config.inner,
            num_register_tokens=config.registers,
            rope_theta=ROPE_THETA,
        )
    ratio = config.inner // config.width
    return Dinov2Config(**sizes, mlp_ratio=ratio, image_size=config.side * config.patch)


_SHARED = ("norm1", "norm2", "layer_scale1", "layer_scale2")
_DINOV3 = {
    **{f"attention.{part}_proj": f"attention.{part}_proj" for part in "qkvo"},
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
_DINOV2 = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def vit_keys(config: VitSizes) -> KeyMap:
    """Published key names (without ``backbone.``, as on the hub) to those of ``VitEncoder``."""
    keys = KeyMap()
    dinov3 = config.kind == "dinov3"
    for name in ("cls_token", "mask_token", "register_tokens" if dinov3 else "position_embeddings"):
        keys.pair(f"embeddings.{name}", f"body.embeddings.{name}")
    patches = "embeddings.patch_embeddings" + ("" if dinov3 else ".projection")
    keys.pair(patches, f"body.{patches}")
    keys.pair("last_norm", "body.norm" if dinov3 else "body.layernorm")
    theirs, ours = ("layer", "model.layer") if dinov3 else ("encoder.layer", "encoder.layer")
    parts = {**dict(zip(_SHARED, _SHARED, strict=True)), **(_DINOV3 if dinov3 else _DINOV2)}
    for index in range(config.layers):
        for published, own in parts.items():
            keys.pair(f"{theirs}.{index}.{published}", f"body.{ours}.{index}.{own}")
    for name in ("0.0", "0.1", "0.3", "1"):
        keys.pair(f"pyramid.{name}", f"pyramid.{name}")
    return keys


def infer_vit(weights: Mapping[str, Tensor]) -> VitSizes:
    """Read the sizes off tensor names and shapes (keys without ``backbone.``)."""
    dinov3 = "embeddings.register_tokens" in weights
    layers, first = ("layer.", "mlp.up_proj") if dinov3 else ("encoder.layer.", "mlp.fc1")
    patches = "embeddings.patch_embeddings" + (".weight" if dinov3 else ".projection.weight")
    needed = [f"{layers}0.{first}.weight", patches]
    needed += [] if dinov3 else ["embeddings.position_embeddings"]
    missing = [f"backbone.{name}" for name in needed if name not in weights]
    if missing:
        raise CheckpointError(
            f"the encoder is an incomplete DINOv3 or DINOv2: it lacks {', '.join(missing)}"
        )
    width, count = weights[patches].shape[0], count_entries(weights, layers)
    if count % 4 or width % HEAD_WIDTH:
        raise CheckpointError(
            f"the encoder has {count} layers of width {width}, expected multiples of 4 and 64"
        )
    sizes = VitSizes(
        "dinov3" if dinov3 else "dinov2",
        width,
        count,
        weights[needed[0]].shape[0],
        weights[patches].shape[-1],
    )
    if dinov3:
        registers = weights["embeddings.register_tokens"].shape[1]
        return VitSizes(**{**vars(sizes), "registers": registers})
    side = math.isqrt(weights["embeddings.position_embeddings"].shape[1] - 1)
    return VitSizes(**{**vars(sizes), "side": side})

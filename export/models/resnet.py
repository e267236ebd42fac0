"""ResNet (arXiv 1512.03385) with the key names of the published Mask2Former checkpoints.

The stride of a bottleneck stands in its 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import count_entries

BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True)
class ResNetSizes:
    """Sizes of a ResNet: blocks a stage, channels of the stem, first bottleneck and first stage."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem: int = 64
    bottleneck: int = 64
    width: int = 256

    @property
    def name(self) -> str:
        """Published name, or ``resnet`` for other sizes."""
        found = [name for name, config in RESNET_PRESETS.items() if config == self]
        return found[0] if found else "resnet"


RESNET_PRESETS = {
    "resnet50": ResNetSizes(),
    "resnet101": ResNetSizes((3, 4, 23, 3)),
}


class ConvNorm(nn.Conv2d):
    """Convolution without bias and batch norm, the norm below the convolution's name."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` to ``[n, C', h', w']``."""
        out: Tensor = self.norm(super().forward(maps))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, inner, 1)
        self.conv2 = ConvNorm(inner, inner, 3, stride)
        self.conv3 = ConvNorm(inner, channels_out, 1)
        self.shortcut: nn.Module = (
            nn.Identity()
            if channels_in == channels_out and stride == 1
            else ConvNorm(channels_in, channels_out, 1, stride)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` to ``[n, C', h', w']``."""
        inner = F.relu(self.conv2(F.relu(self.conv1(maps))))
        return F.relu(self.conv3(inner) + self.shortcut(maps))


class Stem(nn.Module):
    """7x7 convolution of stride 2 and max pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, width, 7, 2)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 3, H, W]`` to ``[n, C, H/4, W/4]``."""
        return F.max_pool2d(F.relu(self.conv1(image)), 3, 2, 1)


class ResNetEncoder(nn.Module):
    """Image ``[n, 3, H, W]`` to four maps of strides 4, 8, 16, 32."""

    def __init__(self, config: ResNetSizes) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config.stem)
        before = config.stem
        for stage, depth in enumerate(config.depths):
            inner, after = config.bottleneck << stage, config.width << stage
            blocks = []
            for block in range(depth):
                stride = 2 if stage and block == 0 else 1
                blocks.append(Bottleneck(before, inner, after, stride))
                before = after
            setattr(self, f"res{stage + 2}", nn.Sequential(*blocks))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return tuple(self.config.width << stage for stage in range(4))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The four maps, finest first."""
        maps = [self.stem(image)]
        for stage in range(2, 6):
            maps.append(self.get_submodule(f"res{stage}")(maps[-1]))
        return maps[1:]


def infer_resnet(weights: Mapping[str, Tensor]) -> ResNetSizes:
    """Read the sizes off tensor names and shapes (keys without ``backbone.``)."""
    depths = tuple(count_entries(weights, f"res{stage}.") for stage in range(2, 6))
    needed = ("stem.conv1.weight", "res2.0.conv1.weight", "res2.0.conv3.weight")
    missing = [f"backbone.{key}" for key in needed if key not in weights]
    if missing or 0 in depths:
        raise CheckpointError(f"incomplete ResNet encoder: it lacks {missing or 'a stage'}")
    stem, inner, width = (weights[key].shape[0] for key in needed)
    return ResNetSizes(depths, stem, inner, width)

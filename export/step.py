"""The step contract: a network as a pure function of one frame and its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import ExportError
from streamseg.runtime.manifest import ClassInfo
from streamseg.runtime.state import StateSpec

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

Size = tuple[int, int]


@dataclass(frozen=True)
class WeightsOrigin:
    """Where a model's weights came from; goes into the manifest.

    ``ignored`` lists keys of the checkpoint that the model does not use.
    """

    source: str = "unknown"
    license: str = "unknown"
    sha256: str = ""
    ignored: tuple[str, ...] = field(default=())


class StepModel(nn.Module, ABC):
    """A video segmentation network as ``forward(frame, *state) -> (logits, *new_state)``.

    A step is pure: state comes in and goes out as tensors listed by ``state_spec``, in its order,
    and no module keeps any. ``frame`` is uint8 ``[1, H, W, 3]`` RGB.

    Attributes:
        classes: id, name and colour of every class.
        origin: where the weights came from.
    """

    family: str = ""
    classes: tuple[ClassInfo, ...]
    origin: WeightsOrigin
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.classes = ()
        self.origin = WeightsOrigin()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes K."""

    @abstractmethod
    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """The state table at frame size ``(H, W)``."""

    @abstractmethod
    def check_size(self, size: Size) -> list[str]:
        """Warnings about ``size``.

        Raises:
            ExportError: the network cannot run at this size; the message names one that works.
        """

    @abstractmethod
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step up to the head's output: ``(scores [1, K, h, w], *new_state)``."""

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Family, variant and sizes for the manifest."""

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            frame: uint8 ``[1, H, W, 3]`` RGB.
            *state: as ``state_spec((H, W))`` lists it; not modified.
        Returns:
            logits ``[1, K, H, W]``, then the next state.
        """
        scores, *new_state = self.score(frame, *state)
        return (upsample(scores, (frame.shape[1], frame.shape[2])), *new_state)

    def initial_state(self, size: Size) -> tuple[Tensor, ...]:
        """State at the start of a stream: zeros on the model's device, in its dtype."""
        return tuple(
            torch.zeros(spec.shape, dtype=self.mean.dtype, device=self.mean.device)
            for spec in self.state_spec(size)
        )

    def normalise(self, frame: Tensor) -> Tensor:
        """uint8 ``[n, H, W, 3]`` to normalised ``[n, 3, H, W]`` in the model's dtype."""
        pixels = frame.permute(0, 3, 1, 2).to(self.mean.dtype)
        return (pixels - self.mean) / self.std

    def fold(self) -> StepModel:
        """The same function, rearranged for inference; used by export. Default: unchanged."""
        return self


def upsample(maps: Tensor, size: Size) -> Tensor:
    """Bilinear resize of ``[n, C, h, w]`` to ``size`` (align_corners off)."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def refuse_size(size: Size, reason: str) -> ExportError:
    """The error for a size that a network cannot run at."""
    return ExportError(f"size {size[0]}x{size[1]} is not possible: {reason}")

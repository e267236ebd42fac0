"""MPVSS (NeurIPS 2023) as pure steps: Mask2Former on key frames, its masks warped between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.errors import CheckpointError, ExportError
from streamseg.export.formats.key_map import KeyMap, below, same_names
from streamseg.export.models.mask2former import (
    MASK_STRIDE,
    Mask2Former,
    Mask2FormerConfig,
    infer_mask2former,
)
from streamseg.export.models.motion import Motion, MotionSizes, infer_motion, warp
from streamseg.export.settings import Known, read_count, setting
from streamseg.export.step import GraphPlan, Size, upsample
from streamseg.runtime.bundle.manifest import ScheduleRow
from streamseg.runtime.bundle.state import StateSpec

# The motion network takes frames as published: divided by 255, then this subtracted.
FLOW_MEAN = (0.411, 0.432, 0.45)
KEY_INTERVAL = 5


@dataclass(frozen=True)
class MPVSSConfig(Mask2FormerConfig):
    """Sizes of Mask2Former and the motion network; a key frame every ``key_interval`` frames."""

    motion: MotionSizes = field(default_factory=MotionSizes)
    key_interval: int = field(
        default=KEY_INTERVAL,
        kw_only=True,
        metadata=setting(
            "frames from one key frame to the next",
            expected="2 or more",
            read=read_count(2),
        ),
    )


class MPVSS(Mask2Former):
    """MPVSS as two graphs over the key frame's state.

    ``key`` segments a frame and writes ``image`` (half-size, preprocessed for the motion network),
    ``query``, ``masks`` and ``classes``; ``propagate`` reads them and warps the masks. Every
    propagated frame is warped from the key frame itself.
    """

    family = "mpvss"
    config: MPVSSConfig

    def __init__(self, config: MPVSSConfig) -> None:
        super().__init__(config)
        self.motion = Motion(config.motion)
        flow_mean = torch.tensor(FLOW_MEAN).view(1, 3, 1, 1)
        self.register_buffer("flow_mean", flow_mean, persistent=False)
        self.flow_mean: Tensor
        self.eval()

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """``image``, ``query``, ``masks`` and ``classes`` of the key frame."""
        height, width = self.padded_size(size)
        queries = self.config.queries
        shapes = {
            "image": (1, 3, height // 2, width // 2),
            "query": (1, queries, self.config.width),
            "masks": (1, queries, height // MASK_STRIDE, width // MASK_STRIDE),
            "classes": (1, queries, self.num_classes),
        }
        return tuple(StateSpec(name, shape, kind="key") for name, shape in shapes.items())

    def graphs(self, size: Size) -> dict[str, GraphPlan]:
        """``key`` and ``propagate``."""
        names = tuple(spec.name for spec in self.state_spec(size))
        return {"key": GraphPlan((), names), "propagate": GraphPlan(names, ())}

    def schedule(self) -> tuple[ScheduleRow, ...]:
        """A key frame every ``key_interval`` frames, propagation between them."""
        return (
            ScheduleRow(0, "propagate"),
            ScheduleRow(0, "key", every=self.config.key_interval),
        )

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        return {**super().describe(), "key_interval": self.config.key_interval}

    def published_keys(self) -> Mapping[str, KeyMap]:
        """Key maps of encoder, head and motion network."""
        return {**super().published_keys(), "motion.": same_names(self.motion)}

    def flow_image(self, frame: Tensor) -> Tensor:
        """uint8 ``[1, H, W, 3]`` to the motion network's half-size ``[1, 3, Hp/2, Wp/2]``."""
        image = frame.permute(0, 3, 1, 2).to(self.flow_mean.dtype) / 255 - self.flow_mean
        height, width = self.padded_size((frame.shape[1], frame.shape[2]))
        image = F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]))
        return upsample(image, (height // 2, width // 2))

    def predict(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Masks and classes; graph ``key`` also gives the state."""
        image = self.flow_image(frame)
        if graph == "key":
            found = self.detect(frame)
            return (found.masks, found.classes, image, found.query, found.masks, found.classes)
        if graph != "propagate":
            raise ExportError(f"{self.family} has no graph '{graph}'")
        key_image, query, masks, classes = inputs
        flow = self.motion(torch.cat([image, key_image], dim=1), query)
        return (warp(masks, flow), classes)


def infer_mpvss(weights: Mapping[str, Tensor], settings: Known) -> MPVSSConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    motion = below(weights, "motion.")
    needed = ("decoder.transformer_ffn_layers.0.linear1.weight", "decoder.query_embed.weight")
    missing = [f"motion.{key}" for key in needed if key not in motion]
    if missing:
        raise CheckpointError(f"incomplete MPVSS checkpoint: it lacks {', '.join(missing)}")
    segmentor = infer_mask2former(weights, settings)
    return MPVSSConfig(
        **vars(segmentor), motion=infer_motion(motion), key_interval=settings["key_interval"]
    )

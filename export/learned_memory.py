"""A learned memory for a segmenter without one: temporal blocks over its features.

The segmenter is a bundle and stays as it is. The blocks are those of TV3S; what they find is added
to the segmenter's scores, so that a memory which was not trained changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from streamseg.errors import CheckpointError, ExportError, raised_as
from streamseg.export.checkpoint_files import MODEL
from streamseg.export.frame_graph import FrameGraph
from streamseg.export.models.mamba import BlocksConfig, RunBlocks, TemporalBlocks
from streamseg.export.step import Size, StepModel, upsample
from streamseg.runtime.bundle.state import StateSpec

FAMILY = "memory"
_PREFIX = "memory."


@dataclass(frozen=True)
class LearnedConfig:
    """Sizes of a learned memory: channels of the features, classes, and its temporal blocks."""

    channels: int
    classes: int
    blocks: BlocksConfig


class LearnedMemory(nn.Module):
    """The memory alone; its map is half as fine as the features.

    Source: TV3S (CVPR 2025), section 3.2, over another network's features.
    """

    def __init__(self, config: LearnedConfig) -> None:
        super().__init__()
        self.config = config
        width = config.blocks.embed_dim
        self.read = nn.Conv2d(config.channels, width, 1)
        self.blocks = TemporalBlocks(config.blocks)
        self.write = nn.Conv2d(width, config.classes, 1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)  # type: ignore[arg-type]

    def state_spec(self, features: Sequence[int]) -> tuple[StateSpec, ...]:
        """The state table for features of the shape ``[1, C, h, w]``."""
        return tuple(
            StateSpec(f"{_PREFIX}{spec.name}", spec.shape)
            for spec in self.config.blocks.state_spec(_map_size(features))
        )

    def forward(
        self,
        scores: Sequence[Tensor],
        features: Sequence[Tensor],
        state: Sequence[Tensor],
        *,
        run_blocks: RunBlocks | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run consecutive frames.

        Args:
            scores: ``[batch, K, h, w]`` of each frame.
            features: ``[batch, C, h', w']`` of each.
            state: as ``state_spec`` lists it, with the same batch.
            run_blocks: computes ``TemporalBlocks.forward``; ``None`` is the blocks themselves.
        Returns:
            Scores of each frame, and the state after the last.
        """
        size = _map_size(features[0].shape)
        maps = [self.read(upsample(entry, size)) for entry in features]
        found, new_state = (run_blocks or self.blocks)(maps, state)
        added = [self.write(entry) for entry in found]
        mixed = [
            own + upsample(extra, (own.shape[2], own.shape[3]))
            for own, extra in zip(scores, added, strict=True)
        ]
        return mixed, new_state


def _map_size(features: Sequence[int]) -> Size:
    return max(1, int(features[2]) // 2), max(1, int(features[3]) // 2)


class MemoryModel(StepModel):
    """A frozen bundle, run by ONNX Runtime, with a learned memory in PyTorch; for training.

    Args:
        frames: the bundle's graph.
        blocks: sizes of the memory's temporal blocks.
    """

    family = FAMILY

    def __init__(self, frames: FrameGraph, blocks: BlocksConfig) -> None:
        super().__init__()
        self.frames = frames
        channels, classes = frames.features.shape[1], frames.scores.shape[1]
        self.memory = LearnedMemory(LearnedConfig(channels, classes, blocks))
        self.classes = frames.bundle.manifest.classes
        # Frames do not depend on each other: one a thread is faster than all threads for each.
        self._taps = frames.open_taps((frames.scores, frames.features), threads=1)
        self._pool = ThreadPoolExecutor(torch.get_num_threads())

    def check_size(self, size: Size) -> list[str]:
        """The bundle has one size."""
        if tuple(size) != self.frames.size:
            height, width = self.frames.size
            raise ExportError(
                f"frames are {size[0]}x{size[1]}, but the bundle's are {height}x{width}: give "
                f"--crop {height}x{width}"
            )
        return []

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """Conv and scan state of every layer."""
        self.check_size(size)
        return self.memory.state_spec(self.frames.features.shape)

    def describe(self) -> Mapping[str, Any]:
        """Sizes, and which bundle the memory is for."""
        return describe_memory(self.memory, self.frames.bundle.identity)

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step: scores ``[1, K, h, w]``, then the next state."""
        scores, features = self._read(frame)
        (mixed,), new_state = self.memory([scores], [features], state)
        return (mixed, *new_state)

    def forward_clip(self, frames: Tensor, *, run_blocks: RunBlocks | None = None) -> Tensor:
        """Whole clips from the zero state: uint8 ``[B, T, H, W, 3]`` to ``[B, T, K, h, w]``."""
        batch, length = frames.shape[:2]
        with torch.autocast(frames.device.type, enabled=False):
            scores, features = (
                list(part.reshape(batch, length, *part.shape[1:]).unbind(1))
                for part in self._read(frames.flatten(0, 1))
            )
            state = [
                zeros.expand(batch, *zeros.shape[1:])
                for zeros in self.initial_state((frames.shape[2], frames.shape[3]))
            ]
            mixed, _ = self.memory(scores, features, state, run_blocks=run_blocks)
        return torch.stack(mixed, dim=1)

    def _read(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        found = list(self._pool.map(self._taps, frames.cpu().numpy()))
        scores, features = (
            torch.cat([torch.from_numpy(entry[i]) for entry in found]) for i in (0, 1)
        )
        return scores.to(frames.device), features.to(frames.device)


def describe_memory(memory: LearnedMemory, segmenter: str) -> dict[str, Any]:
    """What files say of a learned memory; ``segmenter`` is the identity of its bundle."""
    return {
        "family": FAMILY,
        "kind": "learned",
        "channels": memory.config.channels,
        "classes": memory.config.classes,
        "blocks": asdict(memory.config.blocks),
        "segmenter": segmenter,
    }


def load_memory(path: Path) -> tuple[LearnedMemory, str]:
    """A memory that ``streamseg train --memory-for`` saved, and the identity of its bundle.

    Raises:
        CheckpointError: unreadable, or something else.
    """
    with raised_as(CheckpointError, f"memory {path}"), safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        stated = json.loads((file.metadata() or {}).get(MODEL, "{}"))
    if stated.get("family") != FAMILY:
        raise CheckpointError(
            f"{path} holds {stated.get('family', 'no network that it names')}, expected the "
            "weights of streamseg train --memory-for"
        )
    with raised_as(CheckpointError, f"memory {path}"):
        pairs = {name: tuple(stated["blocks"][name]) for name in ("window", "shift")}
        blocks = BlocksConfig(**{**stated["blocks"], **pairs})
        memory = LearnedMemory(LearnedConfig(stated["channels"], stated["classes"], blocks))
        memory.load_state_dict({k.removeprefix(_PREFIX): v for k, v in weights.items()})
    return memory.eval(), str(stated["segmenter"])

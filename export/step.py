"""The step contract: a network as a pure function of one frame and its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import ExportError
from streamseg.export import ops  # noqa: F401  (registers the torch ops)
from streamseg.export.formats.key_map import KeyMap, same_names
from streamseg.export.palettes import read_classes
from streamseg.export.settings import read_triple, setting
from streamseg.runtime.bundle.manifest import ClassInfo, ScheduleRow
from streamseg.runtime.bundle.state import StateSpec

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

Size = tuple[int, int]
Triple = tuple[float, float, float]


def _read_std(value: Any) -> Triple:
    std = read_triple(value)
    if min(std) <= 0:
        raise ValueError("more than 0")
    return std


@dataclass(frozen=True)
class InputConfig:
    """How a network's input is normalised: ``(pixel - mean) / std`` on the 0..255 scale, RGB."""

    mean: Triple = field(
        default=IMAGENET_MEAN,
        kw_only=True,
        metadata=setting(
            "mean of red, green and blue on the 0..255 scale",
            expected="three numbers R,G,B",
            read=read_triple,
        ),
    )
    std: Triple = field(
        default=IMAGENET_STD,
        kw_only=True,
        metadata=setting(
            "standard deviation of red, green and blue on the 0..255 scale",
            expected="three numbers R,G,B, more than 0",
            read=_read_std,
        ),
    )


@dataclass(frozen=True)
class WeightsOrigin:
    """Where a model's weights came from; goes into the manifest.

    ``ignored`` lists keys of the checkpoint that the model does not use; ``training_size`` is the
    size of the frames it was trained on, "HxW", or "unknown"; ``outside`` lists keys of the
    checkpoint that are not part of the network and have no known purpose.
    """

    source: str = "unknown"
    license: str = "unknown"
    sha256: str = ""
    ignored: tuple[str, ...] = field(default=())
    training_size: str = "unknown"
    layout: str = ""
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphPlan:
    """One of a model's graphs: the states that it reads and writes, by name.

    ``ring_reads`` says at how many slots each ring in ``reads`` is read.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    ring_reads: Mapping[str, int] = field(default_factory=dict)


class StepModel(nn.Module, ABC):
    """A video segmentation network as ``forward(frame, *state) -> (logits, *new_state)``.

    A step is pure: state comes in and goes out as tensors listed by ``state_spec``, in its order,
    and no module keeps any. ``frame`` is uint8 ``[1, H, W, 3]`` RGB. A subclass defines
    ``state_spec`` and ``score``; everything else has a default. A model whose steps differ
    (warm-up, key frames) also defines ``graphs``, ``schedule`` and ``run_graph``; ``Replay``
    follows them. docs/your-own-network.md has complete examples.

    Args:
        normalisation: of the input; ImageNet's mean and standard deviation by default.
        classes: their names, in the order of the scores' channels.

    Attributes:
        family: the system's name, for the manifest and for messages.
        classes: id, name and colour of every class.
        origin: where the weights came from.
        assumed: settings that the checkpoint does not give, with their published values.
    """

    family: str = ""
    classes: tuple[ClassInfo, ...]
    origin: WeightsOrigin
    assumed: Mapping[str, Any]
    mean: Tensor
    std: Tensor

    def __init__(
        self, normalisation: InputConfig | None = None, *, classes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.classes = read_classes({"CLASSES": list(classes)}, len(classes)) if classes else ()
        self.origin = WeightsOrigin()
        self.assumed = {}
        self.normalisation = normalisation or InputConfig()
        mean, std = torch.tensor(self.normalisation.mean), torch.tensor(self.normalisation.std)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    @property
    def num_classes(self) -> int:
        """Number of classes K; by default that of ``classes``."""
        return len(self.classes)

    @abstractmethod
    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """The state table at frame size ``(H, W)``; empty for a network without memory."""

    def check_size(self, size: Size) -> list[str]:  # noqa: ARG002
        """Warnings about ``size``; by default none, and every size is possible.

        Raises:
            ExportError: the network cannot run at this size; the message names one that works.
        """
        return []

    @property
    def size_step(self) -> Size:
        """Heights and widths that are multiples of these waste no work; by default 32, 32."""
        return (32, 32)

    def enlargement(self, size: Size) -> float:  # noqa: ARG002
        """Share by which maps are enlarged at ``size``, work that brings no detail; default 0."""
        return 0.0

    @abstractmethod
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step up to the head's output.

        Args:
            frame: uint8 ``[1, H, W, 3]`` RGB; ``normalise`` makes float ``[1, 3, H, W]`` of it.
            *state: what the states in ``state_spec`` hold, in its order; must not be modified.
        Returns:
            scores float ``[1, K, h, w]`` at any resolution, then every state's next value, in the
            order of ``state_spec`` and with the shapes and types given there.
        """

    def describe(self) -> Mapping[str, Any]:
        """Family, variant, sizes and settings for the manifest; JSON values."""
        name = self.family or type(self).__name__
        return {"family": name, "encoder": "own", "classes": self.num_classes}

    def configuration(self) -> dict[str, Any]:
        """``describe`` and the input's normalisation: what a checkpoint says of its network."""
        mean, std = self.normalisation.mean, self.normalisation.std
        return {**self.describe(), "mean": list(mean), "std": list(std)}

    def graphs(self, size: Size) -> dict[str, GraphPlan]:
        """The graphs that make up the model; by default one, ``step``, over the whole table."""
        names = tuple(spec.name for spec in self.state_spec(size))
        return {"step": GraphPlan(names, names)}

    def schedule(self) -> tuple[ScheduleRow, ...]:
        """Which graph runs when; by default ``step``, always."""
        return (ScheduleRow(0, "step"),)

    def run_graph(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``score`` of one of ``graphs``.

        Args:
            graph: its name.
            frame: uint8 ``[1, H, W, 3]`` RGB.
            *inputs: the states that it reads, in order; a ring gives one tensor per slot read.
        Returns:
            scores ``[1, K, h, w]``, then the states that it writes, in order.
        """
        if graph != "step":
            raise ExportError(f"{self.family} has no graph '{graph}'")
        return self.score(frame, *inputs)

    def segment(
        self, graph: str, frame: Tensor, *inputs: Tensor, logits: bool = False
    ) -> tuple[Tensor, ...]:
        """``run_graph`` as it is exported: labels instead of scores.

        Returns:
            labels uint8 ``[1, H, W]``, with ``logits`` also logits ``[1, K, H, W]``, then the
            states written.
        """
        size = (frame.shape[1], frame.shape[2])
        scores, *new_state = self.run_graph(graph, frame, *inputs)
        labels = torch.ops.streamseg.upsample_argmax(scores, *size)
        return (labels, *((upsample(scores, size),) if logits else ()), *new_state)

    def published_keys(self) -> Mapping[str, KeyMap]:
        """Key maps to the checkpoint's names, by the prefix of the part they cover.

        By default a checkpoint has the module's own names.
        """
        return {"": same_names(self)}

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
        """State at the start of a stream: zeros on the model's device, floats in its dtype."""
        return tuple(
            torch.zeros(
                spec.shape,
                dtype=self.mean.dtype if "float" in spec.dtype else getattr(torch, spec.dtype),
                device=self.mean.device,
            )
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

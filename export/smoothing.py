"""A memory for networks without one: their log-probabilities, smoothed over time.

The past counts less where the picture changes and where the network is sure of something new. A
warped memory first follows the motion, found by block matching at the resolution of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from streamseg.errors import ExportError
from streamseg.export.step import Size, StepModel, upsample
from streamseg.runtime.bundle.state import StateSpec

KINDS = ("gated", "warped")
LEAST_WEIGHT = 0.02  # of the newest frame: nothing is remembered for ever
BLOCK = 5


@dataclass(frozen=True)
class SmoothingConfig:
    """How the past is weighed against the newest frame.

    Attributes:
        kind: ``gated``, or ``warped``: gated after following the motion.
        weight: of the newest frame where nothing changes and the network is sure, in (0, 1].
        slack: difference from the frame before, in levels of 0..255, that is noise.
        change: difference beyond ``slack`` from which the past counts nothing.
        reach: longest motion that is searched, in cells of the scores' map.
        penalty: levels that a cell of motion costs, so that plain areas stand still.
    """

    kind: str = "gated"
    weight: float = 0.3
    slack: float = 2.0
    change: float = 30.0
    reach: int = 3
    penalty: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ExportError(f"memory is '{self.kind}', expected one of {', '.join(KINDS)}")
        if not (0 < self.weight <= 1 and self.change > 0 and self.slack >= 0):
            raise ExportError(f"{self}: expected 0 < weight <= 1, change > 0, slack >= 0")
        if not 1 <= self.reach <= 8:
            raise ExportError(f"reach is {self.reach}, expected 1 to 8 cells")


# Chosen on CamVid's val sequence: docs/memory.md has the figures.
PRESETS = {
    "gated": SmoothingConfig("gated", weight=0.4, change=20.0),
    "warped": SmoothingConfig("warped"),
}
"""The memories of ``streamseg export --memory``, by name."""


def remember(model: StepModel, config: SmoothingConfig) -> StepModel:
    """``model`` with a smoothed memory; its weights are shared and not changed.

    Args:
        model: one graph. A state of its own is left out: each of its frames is a first one.
        config: how the past is weighed, such as one of ``PRESETS``.
    Raises:
        ExportError: the model chooses among several graphs.
    """
    if set(model.graphs((512, 512))) != {"step"}:
        raise ExportError(
            f"{model.family} chooses among several graphs; a memory needs a network that treats "
            "every frame alike"
        )
    return SmoothedModel(model, config)


class SmoothedModel(StepModel):
    """A network whose scores are smoothed; one state tensor: log-probabilities, frame, age flag."""

    def __init__(self, base: StepModel, config: SmoothingConfig) -> None:
        super().__init__(base.normalisation)
        self.base, self.config = base, config
        self.family, self.classes = base.family, base.classes
        self.origin, self.assumed = base.origin, base.assumed
        self._maps: dict[Size, Size] = {}
        self.eval()

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.base.num_classes

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """One tensor ``[1, K + 4, h, w]`` at the resolution of the scores."""
        return (StateSpec("memory", (1, self.num_classes + 4, *self._map_size(size))),)

    def check_size(self, size: Size) -> list[str]:
        """As the network's."""
        return self.base.check_size(size)

    def describe(self) -> Mapping[str, Any]:
        """The network's, and the memory's settings."""
        return {**self.base.describe(), "memory": asdict(self.config)}

    @property
    def size_step(self) -> Size:
        """The network's."""
        return self.base.size_step

    def enlargement(self, size: Size) -> float:
        """The network's."""
        return self.base.enlargement(size)

    def fold(self) -> StepModel:
        """With the network folded."""
        return SmoothedModel(self.base.fold(), self.config)

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Smoothed log-probabilities ``[1, K, h, w]``, then the next memory."""
        (memory,) = state
        size = (frame.shape[1], frame.shape[2])
        scores = self.base.score(frame, *self.base.initial_state(size))[0]
        return smooth(scores, frame, memory, self.config)

    def _map_size(self, size: Size) -> Size:
        if size not in self._maps:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                frame = torch.zeros((1, *size, 3), dtype=torch.uint8)
                scores = self.base.score(frame, *self.base.initial_state(size))[0]
            self._maps[size] = (int(scores.shape[2]), int(scores.shape[3]))
        return self._maps[size]


def smooth(
    scores: Tensor, frame: Tensor, memory: Tensor, config: SmoothingConfig
) -> tuple[Tensor, Tensor]:
    """Scores mixed with the past.

    Args:
        scores: ``[1, K, h, w]`` of this frame.
        frame: uint8 ``[1, H, W, 3]``.
        memory: ``[1, K + 4, h, w]``: log-probabilities, frame, and 1 where something was seen.
        config: how the past is weighed.
    Returns:
        Log-probabilities ``[1, K, h, w]``, and the next memory.
    """
    new = scores.log_softmax(1)
    image = shrink(frame, (new.shape[2], new.shape[3]))
    if config.kind == "warped":
        memory = follow(memory, image, config)
    old, old_image, seen = torch.split(memory, [new.shape[1], 3, 1], 1)
    weight = _weigh(new, image - old_image, config)
    mixed = old + torch.maximum(weight, 1 - seen) * (new - old)
    return mixed, torch.cat([mixed, image, torch.ones_like(seen)], 1)


def _weigh(new: Tensor, difference: Tensor, config: SmoothingConfig) -> Tensor:
    """Weight of the newest frame, ``[1, 1, h, w]``."""
    change = average(difference.abs().mean(1, keepdim=True), 3)
    gate = ((change - config.slack) / config.change).clamp(0.0, 1.0)
    sure = new.amax(1, keepdim=True).exp()
    weight = config.weight * sure + (1 - config.weight) * gate
    return weight.clamp(LEAST_WEIGHT, 1.0)


def shrink(frame: Tensor, size: Size) -> Tensor:
    """uint8 ``[1, H, W, 3]`` to float ``[1, 3, h, w]``, each cell the mean of its pixels."""
    pixels = frame.permute(0, 3, 1, 2).float()
    window = (max(1, frame.shape[1] // size[0]), max(1, frame.shape[2] // size[1]))
    return upsample(F.avg_pool2d(pixels, window), size)


def average(maps: Tensor, window: int) -> Tensor:
    """Mean over ``window`` x ``window`` cells, at the border over those that exist."""
    return F.avg_pool2d(maps, window, 1, window // 2, count_include_pad=False)


def follow(memory: Tensor, image: Tensor, config: SmoothingConfig) -> Tensor:
    """The memory moved to where its frame's blocks are in ``image``; 0 for those from outside.

    Args:
        memory: ``[1, K + 4, h, w]``.
        image: ``[1, 3, h, w]``, the newest frame.
        config: reach and penalty of the search.
    """
    reach, (height, width) = config.reach, (image.shape[2], image.shape[3])
    wide = F.pad(memory[:, -4:-1], (reach,) * 4, mode="replicate")
    steps = [(y, x) for y in range(2 * reach + 1) for x in range(2 * reach + 1)]
    costs = [
        (image - wide[:, :, y : y + height, x : x + width]).abs().mean(1, keepdim=True)
        + config.penalty * ((y - reach) ** 2 + (x - reach) ** 2) ** 0.5
        for y, x in steps
    ]
    best = average(torch.cat(costs, 1), BLOCK).argmin(1, keepdim=True)
    # 0 outside: the flag says that nothing was seen there.
    padded = F.pad(memory, (reach,) * 4)
    rows = torch.arange(height).view(1, 1, -1, 1) + torch.div(
        best, 2 * reach + 1, rounding_mode="floor"
    )
    columns = torch.arange(width).view(1, 1, 1, -1) + best % (2 * reach + 1)
    index = (rows * (width + 2 * reach) + columns).flatten(2).expand(-1, memory.shape[1], -1)
    return padded.flatten(2).gather(2, index).view_as(memory)

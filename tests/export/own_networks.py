"""Networks of one's own, good and faulty, as a user of StepModel writes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from streamseg.export import StateSpec, StepModel

SIZE = (32, 48)


class ConvGRU(StepModel):
    """A convolutional GRU over features at a quarter of the size."""

    family = "convgru"

    def __init__(self, classes: tuple[str, ...] = ("road", "car", "sky"), width: int = 8) -> None:
        super().__init__(classes=classes)
        self.width = width
        self.encode = nn.Conv2d(3, width, 3, stride=4, padding=1)
        self.gates = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.candidate = nn.Conv2d(2 * width, width, 3, padding=1)
        self.classify = nn.Conv2d(width, len(classes), 1)

    def state_spec(self, size: tuple[int, int]) -> tuple[StateSpec, ...]:
        return (StateSpec("hidden", (1, self.width, -(-size[0] // 4), -(-size[1] // 4))),)

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        (hidden,) = state
        x = self.encode(self.normalise(frame)).relu()
        update, reset = self.gates(torch.cat([x, hidden], 1)).sigmoid().chunk(2, 1)
        new = self.candidate(torch.cat([x, reset * hidden], 1)).tanh()
        hidden = (1 - update) * hidden + update * new
        return self.classify(hidden), hidden


def build(width: int = 8) -> ConvGRU:
    """Seeded; for ``tests.export.own_networks:build``."""
    torch.manual_seed(0)
    return ConvGRU(width=width)


class TwoStates(ConvGRU):
    def state_spec(self, size: tuple[int, int]) -> tuple[StateSpec, ...]:
        return (*super().state_spec(size), StateSpec("count", (1, 1, 1, 1)))

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, state[0])
        return scores, hidden, state[1] + 1


class Swapped(TwoStates):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden, count = super().score(frame, *state)
        return scores, count, hidden


class Forgotten(TwoStates):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return super().score(frame, *state)[:2]


class OtherShape(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        return scores, hidden[:, :, 1:]


class OtherType(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        return scores, hidden.double()


class Hidden(ConvGRU):
    """Keeps its memory where no runtime sees it."""

    memory: Tensor | None = None

    def state_spec(self, size: tuple[int, int]) -> tuple[StateSpec, ...]:  # noqa: ARG002
        return ()

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        size = (frame.shape[1], frame.shape[2])
        old = torch.zeros(super().state_spec(size)[0].shape) if self.memory is None else self.memory
        scores, self.memory = super().score(frame, old)
        return (scores,)


class InPlace(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        state[0].copy_(hidden)
        return scores, state[0]


class Random(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        return scores + torch.rand_like(scores), hidden


class Branching(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        if frame.float().mean() > 128:
            return scores, hidden
        return -scores, hidden


class BooleanIndex(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        return scores + scores[scores > 0].sum(), hidden


class Untranslated(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        return scores + torch.linalg.svdvals(scores)[..., :1, None], hidden


class Double(ConvGRU):
    """Convolves in float64, which ONNX Runtime 1.17.3 has no kernel for."""

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        weight = torch.ones(scores.shape[1], scores.shape[1], 1, 1, dtype=torch.float64)
        return torch.conv2d(scores.double(), weight).float(), hidden


class Bytes(ConvGRU):
    """Adds bytes, which ONNX Runtime 1.17.3 has no kernel for."""

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return super().score(frame + frame.flip(2), *state)


class Unnamed(ConvGRU):
    def __init__(self) -> None:
        super().__init__()
        self.classes = ()


class Scoreless(ConvGRU):
    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, hidden = super().score(frame, *state)
        return hidden, scores


FAULTY: dict[type[StepModel], str] = {
    Swapped: r"float32 \[1, 1, 1, 1\] for state 'hidden'.*would fit 'count': return states in",
    Forgotten: "returns 1 states, expected 2: hidden, count",
    OtherShape: r"float32 \[1, 8, 7, 12\] for state 'hidden', expected float32 \[1, 8, 8, 12\]",
    OtherType: "float64 .* for state 'hidden', expected float32",
    Hidden: "when it is called again.*It changes memory. Memory belongs into state_spec",
    InPlace: "modifies a state that it reads",
    Random: "keeps something or draws random numbers",
    Branching: "control flow depends on the values of a tensor.*torch.where",
    BooleanIndex: "contains NonZero",
    Untranslated: "operator aten._linalg_svd has no translation to ONNX",
    Double: r"contains Conv of double, .*no CPU kernel; convert its inputs with .float\(\)",
    Bytes: "contains Add of uint8, for which ONNX Runtime 1.17.3",
    Unnamed: "has 0 entries in 'classes'",
    Scoreless: r"returns scores torch.float32 \[1, 8, 8, 12\], expected \[1, 3, h, w\]",
}


def seeded(kind: Callable[[], StepModel]) -> StepModel:
    """An instance with seeded weights."""
    torch.manual_seed(0)
    return kind()

"""Which frame sizes a network runs at without waste, and what each costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from streamseg.errors import ExportError
from streamseg.export.catalogue import count_cost
from streamseg.export.step import Size, StepModel

# Heights and widths that are proposed when no size is given, before they are fitted.
COMMON = ((360, 640), (480, 864), (512, 1024), (720, 1280))


@dataclass(frozen=True)
class SizeCost:
    """A frame size and the work of a step there.

    Attributes:
        size: height and width.
        gmacs: 10^9 multiply-adds of the most expensive graph.
        waste: share of work in the temporal blocks beyond what the frame's own map needs; 0 where
            the map is not enlarged.
    """

    size: Size
    gmacs: float
    waste: float

    def describe(self, base: SizeCost | None = None) -> str:
        """``480x960: 87.4 GMACs, 0.79 of 512x1024's for 0.88 of its pixels``."""
        text = f"{self.size[0]}x{self.size[1]}: {self.gmacs:.1f} GMACs"
        if base is None or base.size == self.size:
            return text + (f", {self.waste:.0%} enlarged" if self.waste else "")
        pixels = self.size[0] * self.size[1] / (base.size[0] * base.size[1])
        return (
            f"{text}, {self.gmacs / base.gmacs:.2f} of {base.size[0]}x{base.size[1]}'s for "
            f"{pixels:.2f} of its pixels"
        )


def cost_of(model: StepModel, size: Size) -> SizeCost:
    """The cost of one size, counted and not computed.

    Raises:
        ExportError: the network cannot run at this size.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        cost = count_cost(model, size)
    return SizeCost(size, max(cost.gmacs.values()), model.enlargement(size))


def nearest_sizes(model: StepModel, size: Size) -> tuple[Size, ...]:
    """The sizes without waste below and above ``size``, that it can run at; nearest first.

    Each side is rounded to a multiple of ``StepModel.size_step``, down for the cheaper and up for
    the dearer size.
    """
    steps = model.size_step
    lower = tuple(extent // step * step for extent, step in zip(size, steps, strict=True))
    upper = tuple(-(-extent // step) * step for extent, step in zip(size, steps, strict=True))
    found = []
    for height, width in (lower, upper):
        if (height, width) != size and 0 not in (height, width) and _runs(model, (height, width)):
            found.append((height, width))
    return tuple(found)


def advise(model: StepModel, size: Size) -> list[str]:
    """Lines on a size: nothing where it wastes nothing, else the sizes around it and their cost.

    Raises:
        ExportError: the network cannot run at this size.
    """
    model.check_size(size)
    if model.enlargement(size) == 0:
        return []
    here = cost_of(model, size)
    others = [cost_of(model, other) for other in nearest_sizes(model, size)]
    lines = [here.describe()]
    return lines + [f"without waste {other.describe(here)}" for other in others]


def propose(model: StepModel) -> list[str]:
    """Lines with sizes that waste nothing, and their cost; the training size where it is known.

    The last line is the reason where the network runs at none of them.
    """
    lines = []
    if model.origin.training_size != "unknown":
        lines.append(f"trained at {model.origin.training_size}")
    sizes: dict[Size, None] = {}
    for size in COMMON:
        fits = _runs(model, size) and not model.enlargement(size)
        fitted = (size,) if fits else nearest_sizes(model, size)
        sizes |= dict.fromkeys(fitted[:1])
    if not sizes:
        lines.append(_refusal(model, COMMON[0]))
    return lines + [cost_of(model, size).describe() for size in sizes]


def _runs(model: StepModel, size: Size) -> bool:
    return not _refusal(model, size)


def _refusal(model: StepModel, size: Size) -> str:
    """Why the network cannot run at a size; empty where it can."""
    try:
        model.check_size(size)
    except ExportError as error:
        return str(error)
    return ""

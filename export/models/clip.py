"""What CFFM, CFFM++ and MRCFA share: past frames in rings, and which ones when.

The published rule for offsets (-9, -6, -3): frames 0 to 2 have no references, frames 3 to 8 take
those of a table, from frame 9 on the offsets hold. With other offsets there is no table:
frames before the largest offset have none. Offsets count processed frames.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from streamseg.errors import ExportError
from streamseg.export.models.segformer import SegFormer, SegFormerConfig, SegFormerHead
from streamseg.export.settings import read_whole_numbers, setting
from streamseg.export.step import GraphPlan, Size, upsample
from streamseg.runtime.bundle.manifest import MAX_SLOTS, ScheduleRow

PUBLISHED_OFFSETS = (-9, -6, -3)
MAX_OFFSET = MAX_SLOTS - 1
# First frame of a row -> ages of its references, oldest first.
WARM_UP: dict[int, tuple[int, ...]] = {
    3: (3, 2, 1),
    4: (4, 2, 1),
    5: (5, 3, 1),
    6: (6, 4, 2),
    7: (7, 4, 2),
    8: (8, 5, 2),
}


def _read_offsets(value: Any) -> tuple[int, ...]:
    offsets = read_whole_numbers(value)
    ascending = all(a < b for a, b in itertools.pairwise(offsets))
    if not ascending or not -MAX_OFFSET <= offsets[0] <= offsets[-1] <= -1:
        raise ValueError("offsets")
    return offsets


@dataclass(frozen=True)
class ReferenceConfig(SegFormerConfig):
    """A SegFormer trunk, and the frames that its head looks back at."""

    offsets: tuple[int, ...] = field(
        default=PUBLISHED_OFFSETS,
        kw_only=True,
        metadata=setting(
            "reference frames relative to the current one",
            expected=f"ascending numbers from -{MAX_OFFSET} to -1, such as -9,-6,-3",
            read=_read_offsets,
        ),
    )

    @property
    def slots(self) -> int:
        """Entries of a ring: the oldest reference and this frame."""
        return 1 - self.offsets[0]


class ClipModel(SegFormer):
    """A SegFormer trunk whose head looks at past frames.

    Graph ``single`` serves frames without references (the per-frame output of the trunk), graph
    ``step`` all others. Both write this frame's tensors into the rings.
    """

    config: ReferenceConfig
    decode_head: SegFormerHead

    def graphs(self, size: Size) -> dict[str, GraphPlan]:
        """``single`` and ``step``."""
        table = self.state_spec(size)
        rings = tuple(spec.name for spec in table if spec.kind == "ring")
        names = tuple(spec.name for spec in table)
        return {
            "single": GraphPlan((), rings),
            "step": GraphPlan(names, rings, dict.fromkeys(rings, len(self.config.offsets))),
        }

    def schedule(self) -> tuple[ScheduleRow, ...]:
        """``single`` while references are missing, then the offsets."""
        rings, offsets = self.ring_names(), self.config.offsets
        ages = {-offsets[0]: tuple(-offset for offset in offsets)}
        if offsets == PUBLISHED_OFFSETS:
            ages = {**WARM_UP, **ages}
        return (
            ScheduleRow(0, "single"),
            *(
                ScheduleRow(start, "step", ages=dict.fromkeys(rings, row))
                for start, row in ages.items()
            ),
        )

    @abstractmethod
    def ring_names(self) -> tuple[str, ...]:
        """Names of the rings, in table order."""

    @abstractmethod
    def trunk(self, frame: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Encoder maps, fused map at 1/4 and its reduction to 1/8 ``[1, E, h, w]``."""

    @abstractmethod
    def memorise(self, maps: list[Tensor], reduced: Tensor) -> tuple[Tensor, ...]:
        """Entries of this frame for the rings."""

    @abstractmethod
    def look_back(
        self,
        maps: list[Tensor],
        reduced: Tensor,
        references: Sequence[Sequence[Tensor]],
        given: Sequence[Tensor],
    ) -> Tensor:
        """Scores at 1/8 from this frame, the references (per ring, oldest first) and the rest."""

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder, sizes and offsets for the manifest."""
        return {**super().describe(), "offsets": list(self.config.offsets)}

    def run_graph(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See ``StepModel.run_graph``."""
        if graph == "step":
            return self.score(frame, *inputs)
        if graph != "single":
            raise ExportError(f"{self.family} has no graph '{graph}'")
        maps, fused, reduced = self.trunk(frame)
        return (self.decode_head.linear_pred(fused), *self.memorise(maps, reduced))

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The step with references: scores ``[1, K, h, w]``, then the rings' new entries."""
        rings, count = len(self.ring_names()), len(self.config.offsets)
        references = [state[i * count : (i + 1) * count] for i in range(rings)]
        maps, fused, reduced = self.trunk(frame)
        scores = self.look_back(maps, reduced, references, state[rings * count :])
        quarter = (fused.shape[2], fused.shape[3])
        return (upsample(scores, quarter), *self.memorise(maps, reduced))

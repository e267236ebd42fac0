"""What CFFM, CFFM++ and MRCFA share: three past frames in rings, and which ones when.

The published rule for offsets (-9, -6, -3): frames 0 to 2 stand alone, frames 3 to 8 take the
references of the table, from frame 9 on the offsets hold. Offsets count processed frames.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from streamseg.errors import ExportError
from streamseg.export.models.segformer import SegFormer
from streamseg.export.step import GraphPlan, Size, upsample
from streamseg.runtime.bundle.manifest import ScheduleRow

SLOTS = 10
REFERENCES = 3
# First frame of a row -> ages of its references, oldest first.
AGES: dict[int, tuple[int, int, int]] = {
    3: (3, 2, 1),
    4: (4, 2, 1),
    5: (5, 3, 1),
    6: (6, 4, 2),
    7: (7, 4, 2),
    8: (8, 5, 2),
    9: (9, 6, 3),
}


class ClipModel(SegFormer):
    """A SegFormer trunk whose head looks at three past frames.

    Graph ``single`` serves frames without references (the per-frame output of the trunk), graph
    ``step`` all others. Both write this frame's tensors into the rings.
    """

    def graphs(self, size: Size) -> dict[str, GraphPlan]:
        """``single`` and ``step``."""
        table = self.state_spec(size)
        rings = tuple(spec.name for spec in table if spec.kind == "ring")
        names = tuple(spec.name for spec in table)
        return {
            "single": GraphPlan((), rings),
            "step": GraphPlan(names, rings, dict.fromkeys(rings, REFERENCES)),
        }

    def schedule(self) -> tuple[ScheduleRow, ...]:
        """``single`` for three frames, then the published references."""
        rings = self.ring_names()
        return (
            ScheduleRow(0, "single"),
            *(
                ScheduleRow(start, "step", ages=dict.fromkeys(rings, ages))
                for start, ages in AGES.items()
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

    def run_graph(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See ``StepModel.run_graph``."""
        if graph == "step":
            return self.score(frame, *inputs)
        if graph != "single":
            raise ExportError(f"{self.family} has no graph '{graph}'")
        maps, fused, reduced = self.trunk(frame)
        return (self.decode_head.linear_pred(fused), *self.memorise(maps, reduced))

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The step with three references: scores ``[1, K, h, w]``, then the rings' new entries."""
        rings = len(self.ring_names())
        references = [state[i * REFERENCES : (i + 1) * REFERENCES] for i in range(rings)]
        maps, fused, reduced = self.trunk(frame)
        scores = self.look_back(maps, reduced, references, state[rings * REFERENCES :])
        quarter = (fused.shape[2], fused.shape[3])
        return (upsample(scores, quarter), *self.memorise(maps, reduced))

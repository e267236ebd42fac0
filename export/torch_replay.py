"""A model played in PyTorch: the manifest's schedule over buffers of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from streamseg.errors import StateMismatch
from streamseg.export.step import IMAGENET_MEAN, IMAGENET_STD, Size, StepModel, upsample
from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.bundle.manifest import FrameSpec, GraphSpec, Manifest


def outline(model: StepModel, size: Size) -> Manifest:
    """The model's manifest before export: state table, graphs and schedule, no files."""
    return Manifest(
        model=model.describe(),
        frame=FrameSpec(*size, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        state=model.state_spec(size),
        graphs={
            name: GraphSpec(f"{name}.onnx", plan.reads, plan.writes, ("labels",), plan.ring_reads)
            for name, plan in model.graphs(size).items()
        },
        schedule=model.schedule(),
        classes=model.classes,
        files={},
    )


class Replay:
    """Runs a model frame by frame, as the runtime runs its bundle.

    Args:
        model: any system; rings, key frames and warm-up follow its own tables.
        size: (H, W) of the frames.
        given: name -> tensor for each state of kind ``given``.
    Raises:
        StateMismatch: a given state is missing or has another shape.
    """

    def __init__(
        self, model: StepModel, size: Size, *, given: Mapping[str, Tensor] | None = None
    ) -> None:
        self.model = model
        self.size = size
        self.step_count = 0
        self._manifest = outline(model, size)
        self._given = dict(given or {})
        self._check_given()
        self._buffers: dict[str, list[Tensor]] = {}
        self.reset()

    def reset(self) -> None:
        """Back to the empty state; given tensors stay."""
        self.step_count = 0
        for spec in self._manifest.state:
            empty = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
            self._buffers[spec.name] = [self._given.get(spec.name, empty)] * spec.buffers

    def scores(self, frame: Tensor) -> Tensor:
        """Advance by uint8 ``[1, H, W, 3]``; the head's scores ``[1, K, h, w]``."""
        plan = plan_step(self._manifest, self.step_count)
        inputs = [self._buffers[feed.state][feed.buffer] for feed in plan.reads]
        found, *written = self.model.run_graph(plan.graph, frame, *inputs)
        for feed, tensor in zip(plan.writes, written, strict=True):
            self._buffers[feed.state][feed.buffer] = tensor
        self.step_count += 1
        return found

    def logits(self, frame: Tensor) -> Tensor:
        """Advance by uint8 ``[1, H, W, 3]``; logits ``[1, K, H, W]``."""
        return upsample(self.scores(frame), self.size)

    def state(self) -> dict[str, Tensor]:
        """What the next step reads, as ``Stream.snapshot`` lays it out."""
        found = {}
        for spec in self._manifest.state:
            buffers = self._buffers[spec.name]
            found[spec.name] = (
                torch.stack(buffers)
                if spec.kind == "ring"
                else buffers[spec.read_index(self.step_count)]
            )
        return found

    def _check_given(self) -> None:
        table = {spec.name: spec for spec in self._manifest.state if spec.kind == "given"}
        if set(self._given) != set(table):
            raise StateMismatch(
                f"given states are {sorted(self._given)}, {self.model.family} expects "
                f"{sorted(table)}; a bundle can hold them, see: streamseg prototypes --help"
            )
        for name, spec in table.items():
            if tuple(self._given[name].shape) != spec.shape:
                raise StateMismatch(
                    f"'{name}' is {list(self._given[name].shape)}, expected {list(spec.shape)}"
                )

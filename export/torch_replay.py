"""A model stepped in PyTorch, through the schedule and the state code of the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from streamseg.errors import BackendError
from streamseg.export.step import Size, StepModel, upsample
from streamseg.runtime.backends.arrays import DeviceFrame
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.backends.interface import Array, Lane, StepPlan
from streamseg.runtime.bundle.manifest import FrameSpec, GraphSpec, Manifest
from streamseg.runtime.stepper import Stepper


def outline(model: StepModel, size: Size) -> Manifest:
    """The model's manifest before export: state table, graphs and schedule, no files."""
    return Manifest(
        model=model.describe(),
        frame=FrameSpec(*size, mean=model.normalisation.mean, std=model.normalisation.std),
        state=model.state_spec(size),
        graphs={
            name: GraphSpec(f"{name}.onnx", plan.reads, plan.writes, ("labels",), plan.ring_reads)
            for name, plan in model.graphs(size).items()
        },
        schedule=model.schedule(),
        classes=model.classes,
        files={},
        assumed=model.assumed,
    )


class TorchLane(Lane):
    """Tensors as buffers, and the model's own forward pass instead of a graph's.

    Attributes:
        batch: uint8 ``[1, H, W, 3]``, the frame of the next step.
        scores: the head's, ``[1, K, h, w]``, of the last step.
    """

    depth = 1
    stream = 0

    def __init__(self, model: StepModel, manifest: Manifest) -> None:
        self.batch = torch.zeros(manifest.frame.shape, dtype=torch.uint8)
        self.scores = torch.empty(0)
        self._model = model
        self._buffers = {
            spec.name: [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))] * spec.buffers
            for spec in manifest.state
        }

    def start(self, plan: StepPlan) -> None:
        """Run the model's step."""
        inputs = [self._buffers[feed.state][feed.buffer] for feed in plan.reads]
        self.scores, *written = self._model.run_graph(plan.graph, self.batch, *inputs)
        for feed, tensor in zip(plan.writes, written, strict=True):
            self._buffers[feed.state][feed.buffer] = tensor

    def finish(self) -> None:
        """Nothing is left to do: the step is complete when it was begun."""

    def read_logits(self) -> None:
        """None: ``scores`` are what a replay needs."""

    def run_device(self, plan: StepPlan, frame: DeviceFrame) -> DeviceArray:  # noqa: ARG002
        """Refuse: frames come as tensors."""
        raise BackendError("a replay in PyTorch takes no frames from device memory")

    def read(self, state: str, buffer: int) -> Array:
        """A copy of one state buffer."""
        return np.array(self._buffers[state][buffer].detach().numpy())

    def write(self, state: str, buffer: int, content: Array) -> None:
        """Overwrite one state buffer."""
        self._buffers[state][buffer] = torch.from_numpy(content.copy())

    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:
        """Check the tensors."""
        return all(bool(self._buffers[name][index].isfinite().all()) for name, index in buffers)

    def clear(self) -> None:
        """Zero every state buffer; steps never write in place."""
        for name, buffers in self._buffers.items():
            self._buffers[name] = [torch.zeros_like(tensor) for tensor in buffers]

    def close(self) -> None:
        """Release the tensors."""
        self._buffers.clear()


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
        manifest = outline(model, size)
        self._lane = TorchLane(model, manifest)
        arrays = {name: tensor.numpy() for name, tensor in (given or {}).items()}
        self._stepper = Stepper(manifest, self._lane, arrays)
        self._stepper.require_given()

    def reset(self) -> None:
        """Back to the empty state; given tensors stay."""
        self._stepper.reset()

    def scores(self, frame: Tensor) -> Tensor:
        """Advance by uint8 ``[1, H, W, 3]``; the head's scores ``[1, K, h, w]``."""
        self._lane.batch = frame
        self._stepper.start()
        self._lane.finish()
        return self._lane.scores

    def logits(self, frame: Tensor) -> Tensor:
        """Advance by uint8 ``[1, H, W, 3]``; logits ``[1, K, H, W]``."""
        return upsample(self.scores(frame), self.size)

    def state(self) -> dict[str, Tensor]:
        """What the next step reads, as ``Stream.snapshot`` lays it out."""
        return {name: torch.from_numpy(array) for name, array in self._stepper.read().items()}

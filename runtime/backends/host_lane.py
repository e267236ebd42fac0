"""Lanes whose frame, outputs and state are NumPy buffers, read and written in place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError
from streamseg.runtime.backends.arrays import DeviceFrame
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.backends.interface import Array, Lane, StepPlan, is_finite
from streamseg.runtime.backends.tensors import output_tensors
from streamseg.runtime.bundle.manifest import Manifest


class HostLane(Lane):
    """The buffers of a lane in host memory; a backend binds them and runs the steps."""

    depth = 1
    stream = 0

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._state = {
            spec.name: [np.zeros(spec.shape, dtype=spec.dtype) for _ in range(spec.buffers)]
            for spec in manifest.state
        }
        self._outputs: dict[str, Array] = {
            tensor: np.zeros(shape, dtype=dtype)
            for tensor, (shape, dtype) in output_tensors(manifest).items()
        }
        self.frames = np.zeros(manifest.frame.shape, dtype=np.uint8)
        self.frame = self.frames[0]
        self.labels = self._outputs["labels"][0]

    @abstractmethod
    def _settle(self) -> None:
        """Wait until no step touches the buffers; ``finish`` still reports how it went."""

    def read_logits(self) -> npt.NDArray[np.float32] | None:
        """The buffer that the step wrote."""
        logits: Any = self._outputs.get("logits")
        return None if logits is None else logits[0]

    def read_batch(self) -> dict[str, Array]:
        """Labels and logits of every stream of the last step finished, valid until the next."""
        return self._outputs

    def run_device(self, plan: StepPlan, frame: DeviceFrame) -> DeviceArray:  # noqa: ARG002
        """Refuse: everything is in host memory."""
        raise BackendError(
            "this backend takes no frames from device memory; open the bundle with "
            "backend='tensorrt' or 'cuda'"
        )

    def _inputs(self, plan: StepPlan) -> dict[str, Array]:
        """The buffer of every input of a plan's graph."""
        states = {feed.tensor: self._state[feed.state][feed.buffer] for feed in plan.reads}
        return {"frame": self.frames, **states}

    def _results(self, plan: StepPlan) -> dict[str, Array]:
        """The buffer of every output of a plan's graph."""
        states = {feed.tensor: self._state[feed.state][feed.buffer] for feed in plan.writes}
        outputs = self._manifest.graphs[plan.graph].outputs
        return {**states, **{tensor: self._outputs[tensor] for tensor in outputs}}

    def read(self, state: str, buffer: int) -> Array:
        """A copy of one state buffer."""
        self._settle()
        content: Array = self._state[state][buffer].copy()
        return content

    def write(self, state: str, buffer: int, content: Array) -> None:
        """Overwrite one state buffer."""
        self._settle()
        np.copyto(self._state[state][buffer], content)

    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:
        """Check the buffers in place."""
        self._settle()
        return all(is_finite(self._state[state][buffer]) for state, buffer in buffers)

    def read_part(self, state: str, buffer: int, part: int) -> Array:
        """A copy of one stream's block of a state buffer."""
        content: Array = self._block(state, buffer, part).copy()
        return content

    def write_part(self, state: str, buffer: int, part: int, content: Array) -> None:
        """Overwrite one stream's block of a state buffer."""
        np.copyto(self._block(state, buffer, part), content)

    def clear_part(self, buffer: int, part: int) -> None:
        """Zero one stream's block of every state."""
        for state in self._state:
            self._block(state, buffer, part).fill(0)

    def keep_part(self, source: int, target: int, part: int) -> None:
        """Copy one stream's block of every state from a buffer to another."""
        for state in self._state:
            np.copyto(self._block(state, target, part), self._block(state, source, part))

    def finite_part(self, buffer: int, part: int) -> bool:
        """Whether one stream's state holds no NaN and no infinity."""
        return all(is_finite(self._block(state, buffer, part)) for state in self._state)

    def _block(self, state: str, buffer: int, part: int) -> Array:
        self._settle()
        whole = self._state[state][buffer]
        extent = whole.shape[0] // self._manifest.frame.batch
        return whole[part * extent : (part + 1) * extent]

    def clear(self) -> None:
        """Zero every state buffer."""
        self._settle()
        for buffers in self._state.values():
            for buffer in buffers:
                buffer.fill(0)

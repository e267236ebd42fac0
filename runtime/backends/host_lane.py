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
        self._batch = np.zeros(manifest.frame.shape, dtype=np.uint8)
        self.frame = self._batch[0]
        self.labels = self._outputs["labels"][0]

    @abstractmethod
    def _settle(self) -> None:
        """Wait until no step touches the buffers; ``finish`` still reports how it went."""

    def read_logits(self) -> npt.NDArray[np.float32] | None:
        """The buffer that the step wrote."""
        logits: Any = self._outputs.get("logits")
        return None if logits is None else logits[0]

    def run_device(self, plan: StepPlan, frame: DeviceFrame) -> DeviceArray:  # noqa: ARG002
        """Refuse: everything is in host memory."""
        raise BackendError(
            "this backend takes no frames from device memory; open the bundle with "
            "backend='tensorrt' or 'cuda'"
        )

    def _inputs(self, plan: StepPlan) -> dict[str, Array]:
        """The buffer of every input of a plan's graph."""
        states = {feed.tensor: self._state[feed.state][feed.buffer] for feed in plan.reads}
        return {"frame": self._batch, **states}

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

    def clear(self) -> None:
        """Zero every state buffer."""
        self._settle()
        for buffers in self._state.values():
            for buffer in buffers:
                buffer.fill(0)

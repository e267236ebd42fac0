"""The schedule and the state of one stream, over the buffers of any lane."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamseg.errors import StateMismatch
from streamseg.runtime.backends.arrays import DeviceFrame
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.backends.interface import Array, Lane, plan_step
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.bundle.state import StateSpec


class Stepper:
    """Steps a lane as the manifest's schedule says; what it reads and writes is the state.

    The runtime, the calibrator's replay and the exporter's replay all step through this class;
    only their lanes differ.

    Args:
        manifest: state table, graphs and schedule.
        lane: its buffers; closed by its creator.
        given: name -> content of states of kind ``given``.

    Attributes:
        step: frames begun since the last reset.
    """

    def __init__(
        self, manifest: Manifest, lane: Lane, given: Mapping[str, Array] | None = None
    ) -> None:
        self.step = 0
        self._manifest, self._lane = manifest, lane
        self.given: dict[str, Array] = {}
        for name, content in (given or {}).items():
            self.give(name, content)

    def start(self, graph: str | None = None) -> int:
        """Begin the step on the lane's frame; returns its number since the last reset.

        Args:
            graph: run this one, whatever the schedule says.

        Raises:
            BackendError: as ``Lane.start``.
        """
        self._lane.start(plan_step(self._manifest, self.step, graph))
        self.step += 1
        return self.step - 1

    def run_device(self, frame: DeviceFrame) -> tuple[DeviceArray, int]:
        """Run the step on a frame in device memory; returns its labels there, and its number."""
        labels = self._lane.run_device(plan_step(self._manifest, self.step), frame)
        self.step += 1
        return labels, self.step - 1

    def require_given(self) -> None:
        """Raise StateMismatch unless every state of kind ``given`` has values."""
        for spec in self._manifest.state:
            if spec.kind == "given" and spec.name not in self.given:
                raise StateMismatch(
                    f"'{spec.name}' has no values: set them with Stream.give (a prompt), or make "
                    "them from footage with: streamseg prototypes BUNDLE VIDEO"
                )

    def give(self, name: str, content: Array) -> None:
        """Set a state of kind ``given``; see ``Stream.give``."""
        table = {spec.name: spec for spec in self._manifest.state if spec.kind == "given"}
        if name not in table:
            known = ", ".join(table) or "none"
            raise StateMismatch(f"'{name}' is not a given state of this bundle; it has: {known}")
        spec = table[name]
        if content.shape != spec.shape or content.dtype != np.dtype(spec.dtype):
            raise StateMismatch(
                f"'{name}' is {content.dtype} {list(content.shape)}, expected {spec.dtype} "
                f"{list(spec.shape)}; prototypes are made by: streamseg prototypes BUNDLE VIDEO"
            )
        self.given[name] = content.copy()
        self._lane.write(name, 0, content)

    def reset(self) -> None:
        """Zero the state; given values stay."""
        self._lane.clear()
        for name, content in self.given.items():
            self._lane.write(name, 0, content)
        self.step = 0

    def is_finite(self) -> bool:
        """Whether what the next steps read holds no NaN and no infinity."""
        buffers = []
        for spec in self._manifest.state:
            if spec.kind == "ring":
                buffers += [(spec.name, slot) for slot in range(spec.slots)]
            elif spec.kind != "given":
                buffers.append((spec.name, spec.read_index(self.step)))
        return self._lane.finite(buffers)

    def read(self) -> dict[str, Array]:
        """Copies of what the next step reads, by name; a ring has its slots along a first axis."""
        return {spec.name: self._read(spec) for spec in self._manifest.state}

    def read_state(self, name: str) -> Array:
        """One of ``read``.

        Raises:
            StateMismatch: there is no such state.
        """
        table = {spec.name: spec for spec in self._manifest.state}
        if name not in table:
            known = ", ".join(table) or "none"
            raise StateMismatch(f"this bundle has no state '{name}'; it has: {known}")
        return self._read(table[name])

    def _read(self, spec: StateSpec) -> Array:
        if spec.kind == "ring":
            return np.stack([self._lane.read(spec.name, slot) for slot in range(spec.slots)])
        return self._lane.read(spec.name, spec.read_index(self.step))

    def write(self, tensors: Mapping[str, Array], step: int) -> None:
        """Continue from tensors that ``read`` returned after ``step`` frames."""
        for spec in self._manifest.state:
            content = tensors[spec.name]
            if spec.kind == "ring":
                for slot in range(spec.slots):
                    self._lane.write(spec.name, slot, content[slot])
            else:
                self._lane.write(spec.name, spec.read_index(step), content)
            if spec.kind == "given":
                self.given[spec.name] = content.copy()
        self.step = step

"""The state table: tensors carried from frame to frame, and the buffers that a step uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from streamseg.errors import StateMismatch

StateKind = Literal["carry", "ring", "key", "given"]
STATE_KINDS: tuple[StateKind, ...] = ("carry", "ring", "key", "given")
STATE_DTYPES = ("float32", "float16", "uint8", "int32", "int64")


@dataclass(frozen=True)
class StateSpec:
    """One row of the state table.

    Attributes:
        name: field name; graph inputs and outputs are named after it.
        shape: of one tensor (for a ring: of one slot).
        dtype: NumPy name, one of ``STATE_DTYPES``.
        init: value at the start of a stream: ``zeros``; for ``given``, ``unset`` or ``file:`` and
            the path of a .npy file inside the bundle.
        kind: ``carry`` is read and written every step, ``ring`` keeps the last ``slots`` outputs,
            ``key`` is written by key frames and read by the frames between them, ``given`` comes
            from outside the video, is read only and outlives a reset.
        slots: buffers of a ring; 1 for the other kinds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    init: str = "zeros"
    kind: StateKind = "carry"
    slots: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the state itself: all slots of a ring, one copy of the other kinds."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize * self.slots

    @property
    def buffers(self) -> int:
        """Buffers that the runtime makes: ``carry`` swaps two, so that no step copies state."""
        return 2 if self.kind == "carry" else self.slots

    @property
    def output(self) -> str:
        """Name of the graph output that writes this state."""
        return f"{self.name}.out"

    def inputs(self, reads: int = 1) -> tuple[str, ...]:
        """Names of the graph inputs that read this state; a ring is read at ``reads`` slots."""
        if self.kind == "ring":
            return tuple(f"{self.name}.{slot}.in" for slot in range(reads))
        return (f"{self.name}.in",)

    def write_index(self, step: int) -> int:
        """Buffer that step number ``step`` (frames since reset) writes."""
        if self.kind == "carry":
            return (step + 1) % 2
        return step % self.slots

    def read_index(self, step: int, age: int = 1) -> int:
        """Buffer that holds what was written ``age`` steps before step number ``step``."""
        if self.kind == "carry":
            return step % 2
        if self.kind == "key":
            return 0
        return (step - age) % self.slots


def state_bytes(table: tuple[StateSpec, ...]) -> int:
    """Bytes of one stream's state."""
    return sum(spec.nbytes for spec in table)


@dataclass(frozen=True)
class StateSnapshot:
    """A stream's state at one moment: everything that the next step depends on.

    Attributes:
        step: frames processed since the last reset.
        tensors: name -> array of the spec's shape; a ring has its slots along a first axis.
        model: identity of the bundle (SHA-256 of its graphs); another bundle refuses the snapshot.
    """

    step: int
    tensors: Mapping[str, npt.NDArray[np.generic]]
    model: str

    def check(self, table: tuple[StateSpec, ...], model: str) -> None:
        """Raise StateMismatch unless this snapshot belongs to ``model`` and fits ``table``."""
        if self.model != model:
            raise StateMismatch(
                f"this snapshot is of model {self.model[:12]}, the open bundle is {model[:12]}; "
                "restore it into the bundle that it was taken from"
            )
        if self.step < 0:
            raise StateMismatch(f"the snapshot's step counter is {self.step}, expected 0 or more")
        expected = {spec.name for spec in table}
        if set(self.tensors) != expected:
            difference = ", ".join(sorted(set(self.tensors) ^ expected))
            raise StateMismatch(f"snapshot and state table differ in these tensors: {difference}")
        for spec in table:
            array = self.tensors[spec.name]
            shape = (spec.slots, *spec.shape) if spec.kind == "ring" else spec.shape
            if array.shape != shape or array.dtype != np.dtype(spec.dtype):
                raise StateMismatch(
                    f"snapshot tensor '{spec.name}' is {array.dtype} {list(array.shape)}, "
                    f"expected {spec.dtype} {list(shape)}"
                )

"""A graph as a kernel on the fake device: it takes time, and spoils what it has not yet written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_device import Range, Work, overlap

KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
POISON = 0xFF  # NaN as a float, 255 as a label


@dataclass(frozen=True)
class DeviceTensor:
    """A tensor's address, shape and type."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def area(self) -> Range:
        return self.address, self.address + self.size

    def view(self, cuda: FakeCuda) -> npt.NDArray[Any]:
        return cuda.view(self.address, self.size).view(self.dtype).reshape(self.shape)


def tensor_kind(entry: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a session's input or output."""
    return tuple(entry.shape), np.dtype(KINDS[entry.type])


def graph_work(
    cuda: FakeCuda,
    session: Any,
    inputs: Mapping[str, DeviceTensor],
    outputs: Mapping[str, DeviceTensor],
    *,
    scratch: Range | None = None,
) -> Work:
    """Two phases: spoil outputs and workspace, then read the inputs and write the outputs.

    Inputs that no work on a stream is to write must not change until they are read, and none may
    change between the phases.
    """
    _check_places(cuda, inputs, outputs, scratch)
    kept: dict[str, bytes] = {}

    def note(names: Any) -> None:
        kept.update({name: inputs[name].view(cuda).tobytes() for name in names})

    def enqueued() -> None:
        kept.clear()
        note(
            name
            for name, tensor in inputs.items()
            # The work itself is pending by now, and writes none of its inputs.
            if not cuda.pending(tensor.area, writes_only=True)
        )

    def compare(when: str) -> None:
        for name, content in kept.items():
            if inputs[name].view(cuda).tobytes() != content:
                cuda.violate(f"input '{name}' changed {when}")

    def begin() -> None:
        compare("before its step ran")
        note(inputs)
        for tensor in outputs.values():
            cuda.view(tensor.address, tensor.size)[:] = POISON
        if scratch is not None:
            cuda.view(scratch[0], scratch[1] - scratch[0])[:] = POISON

    def end() -> None:
        compare("while its step ran")
        feed = {name: tensor.view(cuda).copy() for name, tensor in inputs.items()}
        values = session.run(list(outputs), feed)
        for tensor, value in zip(outputs.values(), values, strict=True):
            tensor.view(cuda)[...] = value

    writes = [tensor.area for tensor in outputs.values()] + ([scratch] if scratch else [])
    reads = [tensor.area for tensor in inputs.values()]
    return Work("step", [begin, end], reads, writes, enqueued)


def _check_places(
    cuda: FakeCuda,
    inputs: Mapping[str, DeviceTensor],
    outputs: Mapping[str, DeviceTensor],
    scratch: Range | None,
) -> None:
    for name, tensor in (*inputs.items(), *outputs.items()):
        if not cuda.fits(tensor.address, tensor.size):
            cuda.violate(f"'{name}' does not fit into the allocation at its address")
        if tensor.address % tensor.dtype.itemsize:
            cuda.violate(f"'{name}' lies at an unaligned address")
    areas = [(name, tensor.area) for name, tensor in (*inputs.items(), *outputs.items())]
    if scratch is not None:
        areas.append(("the workspace", scratch))
        if not cuda.fits(scratch[0], scratch[1] - scratch[0]):
            cuda.violate("the workspace does not fit into its allocation")
    for name, tensor in outputs.items():
        for other, area in areas:
            if other != name and overlap(tensor.area, area):
                cuda.violate(f"output '{name}' overlaps '{other}'")

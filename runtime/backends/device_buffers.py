"""One stream's memory on a CUDA device: state, and the slots of the steps under way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError
from streamseg.runtime.backends.cuda import Cuda, DeviceArray
from streamseg.runtime.backends.tensors import output_tensors
from streamseg.runtime.bundle.manifest import Manifest

SLOTS = 2


@dataclass
class StepSlot:
    """Buffers of one step under way: frame and outputs, on the device and page-locked.

    Attributes:
        index: number of the slot.
        frame: page-locked ``[1, H, W, 3]``.
        device_frame: the same on the device; on an integrated GPU the same memory.
        outputs, device_outputs: name -> array.
        uploaded, computed, ready, consumed: events: the frame is on the device, the outputs are
            computed, the labels are downloaded, another library has read the outputs.
        uses: how many steps have claimed the slot.
        owner: of a frame in device memory that the step may still be reading.
        unwatched: a step on a device frame that nobody on the host has waited for.
        stream, stream_owner: handle of the stream that the caller named, and what keeps it.
        consumers: handles of other libraries' streams that read the outputs and still exist.
        read_elsewhere: the outputs are read on a stream that may be destroyed, or is not known.
        fetched: ``outputs`` holds the logits of the step.
    """

    index: int
    frame: npt.NDArray[np.uint8]
    device_frame: DeviceArray
    outputs: dict[str, npt.NDArray[Any]]
    device_outputs: dict[str, DeviceArray]
    uploaded: Any
    computed: Any
    ready: Any
    consumed: Any
    uses: int = 0
    owner: object = None
    unwatched: bool = False
    stream: int = 0
    stream_owner: object = None
    consumers: set[int] = field(default_factory=set)
    read_elsewhere: bool = False
    fetched: bool = False


class DeviceBuffers:
    """State and slots of one stream, and three CUDA streams: uploads, steps, downloads.

    Args:
        cuda: the runtime.
        manifest: what is allocated.
        steps: the stream that steps run on, if it belongs to somebody else.
    Attributes:
        in_place: the device reads frames where the host wrote them (integrated GPUs).
    Raises:
        BackendError: the device is out of memory; what was made is released.
    """

    def __init__(self, cuda: Cuda, manifest: Manifest, steps: Any = None) -> None:
        self.cuda, self._manifest = cuda, manifest
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.in_place = cuda.is_integrated()
            self.steps = self._new_stream() if steps is None else steps
            self.uploads, self.downloads = self._new_stream(), self._new_stream()
            self.state = {
                spec.name: [self.allocate(spec.shape, spec.dtype) for _ in range(spec.buffers)]
                for spec in manifest.state
            }
            self.slots = [self._new_slot(index) for index in range(SLOTS)]
            self.clear()
            for slot in self.slots:
                for array in (slot.device_frame, *slot.device_outputs.values()):
                    cuda.zero(array, self.steps)
            cuda.synchronize(self.steps)
            undo.pop_all()

    def _new_slot(self, index: int) -> StepSlot:
        shape, outputs = self._manifest.frame.shape, output_tensors(self._manifest)
        frame = self.cuda.allocate_pinned(shape, "uint8", mapped=self.in_place)
        if self.in_place:
            device_frame = DeviceArray(self.cuda.address_on_device(frame), shape, "uint8")
        else:
            device_frame = self.allocate(shape, "uint8")
        return StepSlot(
            index,
            frame,
            device_frame,
            {name: self.cuda.allocate_pinned(*kind) for name, kind in outputs.items()},
            {name: self.allocate(*kind) for name, kind in outputs.items()},
            *(self._new_event() for _ in range(4)),
        )

    def _new_stream(self) -> Any:
        return self._keep("cudaStreamDestroy", self.cuda.new_stream())

    def _new_event(self) -> Any:
        return self._keep("cudaEventDestroy", self.cuda.new_event())

    def _keep(self, call: str, handle: Any) -> Any:
        self._stack.callback(self.cuda.try_call, call, handle)
        return handle

    def allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Device memory that lives as long as the buffers."""
        array = self.cuda.allocate(shape, dtype)
        self._keep("cudaFree", array.pointer)
        return array

    def before_release(self, callback: Callable[[], None]) -> None:
        """Call this before the memory allocated so far is released."""
        self._stack.callback(callback)

    def clear(self) -> None:
        """Begin zeroing every state buffer, after the steps begun so far."""
        for arrays in self.state.values():
            for array in arrays:
                self.cuda.zero(array, self.steps)

    def settle(self) -> None:
        """Wait until the device uses none of the buffers."""
        for stream in (self.uploads, self.steps, self.downloads):
            self.cuda.synchronize(stream)

    def close(self) -> None:
        """Wait for the device and release everything; closing twice is fine."""
        with contextlib.suppress(BackendError, AttributeError):
            self.settle()
        for slot in getattr(self, "slots", ()):
            slot.owner = slot.stream_owner = None
        self._stack.close()

"""CUDA's runtime through cuda-python: memory, streams, events and graphs.

Imported by what was asked to use a GPU, and by nothing else. Every failing call raises
``BackendError`` with the call, CUDA's name for the error and what to do.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError

INSTALL = (
    "pip install 'cuda-bindings>=12.9,<13' for a CUDA 12 driver, 'cuda-bindings>=13' for CUDA 13"
)
# Calls used here, with the number of their arguments; tests compare them with the real module.
CALLS = {
    "cudaEventCreateWithFlags": 1,
    "cudaEventDestroy": 1,
    "cudaEventRecord": 2,
    "cudaEventSynchronize": 1,
    "cudaFree": 1,
    "cudaFreeHost": 1,
    "cudaGetDeviceCount": 0,
    "cudaGetErrorName": 1,
    "cudaGetErrorString": 1,
    "cudaGetLastError": 0,
    "cudaGraphDestroy": 1,
    "cudaGraphExecDestroy": 1,
    "cudaGraphInstantiate": 2,
    "cudaGraphLaunch": 2,
    "cudaHostAlloc": 2,
    "cudaMalloc": 1,
    "cudaMemGetInfo": 0,
    "cudaMemcpyAsync": 5,
    "cudaMemsetAsync": 4,
    "cudaStreamBeginCapture": 2,
    "cudaStreamCreateWithFlags": 1,
    "cudaStreamDestroy": 1,
    "cudaStreamEndCapture": 1,
    "cudaStreamSynchronize": 1,
    "cudaStreamWaitEvent": 3,
}
_ADVICE = {
    "cudaErrorMemoryAllocation": "the GPU is out of memory: close other programs that use it, or "
    "export the model at a smaller --size",
    "cudaErrorNoDevice": "there is no GPU here. Run: streamseg doctor",
    "cudaErrorInsufficientDriver": "there is no NVIDIA driver here, or one too old for this "
    "cuda-bindings. Run: streamseg doctor",
}
_LOST = "the GPU's context is lost; start the program again"


@dataclass(frozen=True)
class DeviceArray:
    """A dense array in device memory that somebody else keeps alive.

    Other libraries (CuPy, torch, pycuda) take it by ``__cuda_array_interface__``: they wait for
    the work on ``stream`` and copy nothing.

    Attributes:
        pointer: device address.
        shape: of the array.
        dtype: NumPy name.
        stream: handle of the CUDA stream on which the content becomes ready; 0 when it is ready.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    stream: int = 0

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream or None,
            "version": 3,
        }


def open_cuda() -> Cuda:
    """The CUDA runtime, with at least one device.

    Raises:
        BackendError: cuda-python is missing, or there is no driver or no GPU.
    """
    try:
        bindings = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(f"cuda-python is not installed ({error}). Run: {INSTALL}") from None
    cuda = Cuda(bindings)
    if cuda.call("cudaGetDeviceCount") == 0:
        raise BackendError("CUDA finds no GPU on this machine. Run: streamseg doctor")
    return cuda


class Cuda:
    """The runtime's calls on the current device. Handles and addresses are the library's own."""

    def __init__(self, bindings: Any) -> None:
        self.api = bindings

    def call(self, name: str, *arguments: Any) -> Any:
        """Call the runtime; its result without the status.

        Raises:
            BackendError: CUDA reports an error.
        """
        status, *values = getattr(self.api, name)(*arguments)
        if status != self.api.cudaError_t.cudaSuccess:
            raise BackendError(self._describe(name, status))
        return values[0] if len(values) == 1 else tuple(values)

    def _describe(self, name: str, status: Any) -> str:
        code = _text(self.api.cudaGetErrorName(status)[1])
        told = _text(self.api.cudaGetErrorString(status)[1])
        advice = _ADVICE.get(code, _LOST)
        if code == "cudaErrorMemoryAllocation":
            free, total = self.api.cudaMemGetInfo()[1:]
            advice = f"{(free or 0) >> 20} of {(total or 0) >> 20} MiB are free; {advice}"
            self.api.cudaGetLastError()  # this error is not sticky, but is reported again
        return f"{name}: {told} ({code}); {advice}"

    def allocate(self, shape: tuple[int, ...], dtype: str, *, stream: int = 0) -> DeviceArray:
        """Device memory of an array; free it with ``free``."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return DeviceArray(int(self.call("cudaMalloc", max(size, 1))), shape, dtype, stream)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """Page-locked host memory, zeroed; freed when the last view of it is gone."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        address = int(self.call("cudaHostAlloc", max(size, 1), 0))
        raw = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(raw, self.api.cudaFreeHost, address).atexit = False
        array: npt.NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
        array[...] = 0
        return array

    def free(self, array: DeviceArray) -> None:
        """Release device memory."""
        self.call("cudaFree", array.pointer)

    def upload(self, array: DeviceArray, content: npt.NDArray[Any], stream: Any) -> None:
        """Begin copying host memory to the device."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = content.ctypes.data
        self.call("cudaMemcpyAsync", array.pointer, source, array.nbytes, kind, stream)

    def download(self, content: npt.NDArray[Any], array: DeviceArray, stream: Any) -> None:
        """Begin copying device memory to the host."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        target = content.ctypes.data
        self.call("cudaMemcpyAsync", target, array.pointer, array.nbytes, kind, stream)

    def zero(self, array: DeviceArray, stream: Any) -> None:
        """Begin zeroing device memory."""
        self.call("cudaMemsetAsync", array.pointer, 0, array.nbytes, stream)

    def new_stream(self) -> Any:
        """A stream that does not wait for the default stream."""
        return self.call("cudaStreamCreateWithFlags", self.api.cudaStreamNonBlocking)

    def new_event(self) -> Any:
        """An event without times."""
        return self.call("cudaEventCreateWithFlags", self.api.cudaEventDisableTiming)

    def wait_event(self, stream: Any, event: Any) -> None:
        """Have later work of a stream wait for an event; the host goes on."""
        self.call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize(self, stream: Any) -> None:
        """Wait on the host for all work of a stream."""
        self.call("cudaStreamSynchronize", stream)

    def handle(self, number: int) -> Any:
        """The library's handle of a stream that another library gave as a number."""
        return self.api.cudaStream_t(number)

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """Record what ``enqueue`` puts on a stream into an executable graph; nothing runs.

        Raises:
            BackendError: something cannot be captured; the stream is usable again.
        """
        mode = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            self.api.cudaStreamEndCapture(stream)
            self.api.cudaGetLastError()
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

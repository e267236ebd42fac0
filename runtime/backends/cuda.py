"""CUDA's runtime through cuda-python: memory, streams, events and graphs.

Imported only where a GPU is used. Every failing call raises
``BackendError`` with the call, CUDA's name for the error and what to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError
from streamseg.installation import package_command
from streamseg.runtime.backends.dlpack import export_capsule

DEVICE = 0  # everything runs on the first GPU; CUDA_VISIBLE_DEVICES chooses which that is
LEGACY_STREAM = 1  # CUDA's handle of the default stream, which is never destroyed
_ADVICE = {
    "cudaErrorMemoryAllocation": "the GPU is out of memory: close other programs that use it, or "
    "export the model at a smaller --size",
    "cudaErrorNoDevice": "there is no GPU here. Run: streamseg doctor",
    "cudaErrorInsufficientDriver": "there is no NVIDIA driver here, or it is older than the CUDA "
    "runtime of cuda-bindings. Run: streamseg doctor",
    "cudaErrorDevicesUnavailable": "another process holds the GPU (exclusive compute mode): close "
    "it, or choose another GPU with CUDA_VISIBLE_DEVICES",
}
_LOST = "the GPU's context is lost; start the program again"


@dataclass(frozen=True)
class DeviceArray:
    """A dense array in device memory that somebody else keeps alive.

    Other libraries take it without a copy: by DLPack, which makes the consumer's stream wait for
    the content, or by ``__cuda_array_interface__``, whose ``stream`` the consumer has to honour
    (CuPy and numba do, torch does not: use ``torch.from_dlpack``).

    Attributes:
        pointer: device address.
        shape: of the array.
        dtype: NumPy name.
        stream: handle of the CUDA stream on which the content becomes ready; 0 when it is ready.
        admit: called with the handle of a consumer's stream; later work of that stream then waits
            for the content, which is not overwritten before it is read. 0 stands for a stream that
            is not known. ``None`` where the content is ready and stays.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    stream: int = 0
    admit: Callable[[int], None] | None = field(default=None, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.admit is not None:
            self.admit(0)  # its reader waits for the stream below, and does not say on which
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream or None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, DEVICE)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule, of version 0.x, which every consumer takes.

        Args:
            stream: the consumer's; 1 or ``None`` is the default stream, -1 asks for no ordering.
            max_version: the newest version that the consumer takes.
            dl_device: ``(2, 0)`` or ``None``.
            copy: ``False`` or ``None``.
        Raises:
            BufferError: a copy or another device is requested, or stream 0, which DLPack forbids.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("the labels stay where they are: no copy, on CUDA device 0")
        if stream == 0:
            raise BufferError("stream 0 may mean two streams; 1 is the default stream")
        if self.admit is not None:
            self.admit(0 if stream == -1 else stream or LEGACY_STREAM)
        return export_capsule(self.pointer, self.shape, self.dtype, device=DEVICE, owner=self)


def open_cuda() -> Cuda:
    """The CUDA runtime, with at least one device.

    Raises:
        BackendError: cuda-python is missing, or there is no driver or no GPU.
    """
    try:
        bindings = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(
            f"cuda-python is not installed ({error}). "
            f"Run: {package_command('cuda-bindings>=12.9,<13')} for a CUDA 12 driver, "
            f"{package_command('cuda-bindings>=13')} for CUDA 13"
        ) from None
    cuda = Cuda(bindings)
    if cuda.call("cudaGetDeviceCount") == 0:
        raise BackendError("CUDA finds no GPU on this machine. Run: streamseg doctor")
    with cuda.device():
        return cuda


class Cuda:
    """The runtime's calls on the first device. Handles and addresses are the library's own."""

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

    def try_call(self, name: str, *arguments: Any) -> None:
        """``call`` in clearing up: a GPU whose context is lost refuses even that."""
        with contextlib.suppress(BackendError):
            self.call(name, *arguments)

    @contextlib.contextmanager
    def device(self) -> Iterator[None]:
        """Make the first device this thread's current one, and put the caller's back after.

        Streams, events and kernels belong to the device that is current in the calling thread;
        another library may have chosen another.
        """
        before = self.call("cudaGetDevice")
        self.call("cudaSetDevice", DEVICE)
        try:
            yield
        finally:
            if before != DEVICE:
                self.call("cudaSetDevice", before)

    def _describe(self, name: str, status: Any) -> str:
        code = _text(self.api.cudaGetErrorName(status)[1])
        told = _text(self.api.cudaGetErrorString(status)[1])
        captures = "the work cannot become a CUDA graph" if "Capture" in code else _LOST
        advice = _ADVICE.get(code, captures)
        if code == "cudaErrorMemoryAllocation":
            free, total = self.api.cudaMemGetInfo()[1:]
            advice = f"{(free or 0) >> 20} of {(total or 0) >> 20} MiB are free; {advice}"
            self.api.cudaGetLastError()  # this error is not sticky, but is reported again
        return f"{name}: {told} ({code}); {advice}"

    def allocate(self, shape: tuple[int, ...], dtype: str, *, stream: int = 0) -> DeviceArray:
        """Device memory of an array; free it with ``free``."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return DeviceArray(int(self.call("cudaMalloc", max(size, 1))), shape, dtype, stream)

    def allocate_pinned(
        self, shape: tuple[int, ...], dtype: str, *, mapped: bool = False
    ) -> npt.NDArray[Any]:
        """Page-locked host memory, zeroed; freed when the last view of it is gone.

        ``mapped`` memory has an address on the device too: ``address_on_device``.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        flags = self.api.cudaHostAllocMapped if mapped else 0
        address = int(self.call("cudaHostAlloc", max(size, 1), flags))
        raw = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(raw, self.api.cudaFreeHost, address).atexit = False
        array: npt.NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
        array[...] = 0
        return array

    def address_on_device(self, content: npt.NDArray[Any]) -> int:
        """Where the device sees mapped host memory."""
        return int(self.call("cudaHostGetDevicePointer", content.ctypes.data, 0))

    def is_integrated(self) -> bool:
        """Whether host and device share their memory, as on a Jetson."""
        attribute = self.api.cudaDeviceAttr.cudaDevAttrIntegrated
        return bool(self.call("cudaDeviceGetAttribute", attribute, DEVICE))

    def device_of(self, pointer: int) -> int | None:
        """The device whose memory an address is in; ``None`` for host memory."""
        attributes = self.call("cudaPointerGetAttributes", pointer)
        kinds = self.api.cudaMemoryType
        on_device = (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
        return int(attributes.device) if attributes.type in on_device else None

    def free(self, array: DeviceArray) -> None:
        """Release device memory."""
        self.call("cudaFree", array.pointer)

    def copy(self, target: DeviceArray, source: DeviceArray, stream: Any) -> None:
        """Begin copying within device memory; both have the same size."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        size = target.nbytes
        self.call("cudaMemcpyAsync", target.pointer, source.pointer, size, kind, stream)

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
        """Have later work of a stream wait for an event; the host continues."""
        self.call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize(self, stream: Any) -> None:
        """Wait on the host for all work of a stream."""
        self.call("cudaStreamSynchronize", stream)

    def handle(self, number: int) -> Any:
        """The library's handle of a stream that another library gave as a number."""
        return self.api.cudaStream_t(number)

    def order(self, before: Any, after: Any, event: Any) -> None:
        """Have later work of stream ``after`` wait for what is on stream ``before`` now."""
        self.call("cudaEventRecord", event, before)
        self.wait_event(after, event)

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """Record what ``enqueue`` puts on a stream into an executable graph; nothing runs.

        Raises:
            BackendError: something cannot be captured, or nothing was put on this stream; the
                stream is usable again.
        """
        mode = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            broken = self.api.cudaStreamEndCapture(stream)[1]
            if broken is not None and int(broken):
                self.api.cudaGraphDestroy(broken)
            self.api.cudaGetLastError()
            raise
        try:
            graph = self.call("cudaStreamEndCapture", stream)
            return self._instantiate(graph)
        except BackendError:
            self.api.cudaGetLastError()  # not sticky, but the next call would report it again
            raise

    def _instantiate(self, graph: Any) -> Any:
        try:
            _, count = self.call("cudaGraphGetNodes", graph, 0)
            if count == 0:
                raise BackendError("the captured graph is empty: its work went to another stream")
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)


def prove(cuda: Cuda) -> None:
    """Allocate, copy there and back, and replay a captured graph: what every lane needs.

    Raises:
        BackendError: one of them fails, or what comes back is not what went there.
    """
    with cuda.device(), contextlib.ExitStack() as stack:
        stream = cuda.new_stream()
        stack.callback(cuda.try_call, "cudaStreamDestroy", stream)
        array = cuda.allocate((256,), "uint8")
        stack.callback(cuda.try_call, "cudaFree", array.pointer)
        sent, back = (cuda.allocate_pinned((256,), "uint8") for _ in range(2))
        sent[:] = np.arange(256, dtype=np.uint8)
        cuda.upload(array, sent, stream)
        graph = cuda.capture(stream, lambda: cuda.download(back, array, stream))
        stack.callback(cuda.try_call, "cudaGraphExecDestroy", graph)
        cuda.call("cudaGraphLaunch", graph, stream)
        cuda.synchronize(stream)
        if not np.array_equal(sent, back):
            raise BackendError("CUDA copied 256 bytes there and back and returned other bytes")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

# ruff: noqa: N801, N802, N803, N815, ARG002 - names and arguments are the bindings'
"""``cuda.bindings.runtime`` in host memory, with CUDA's order of things and its refusals.

Work on a stream runs when somebody waits for it, and not before: code that forgets to wait reads
what was there earlier. Device addresses are addresses of this module's own allocations; any other
is an illegal address. ``test_bindings.py`` compares names and arguments with the real module.
"""

from __future__ import annotations

import ctypes
import enum
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ALIGNMENT = 512


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class Handle:
    """As the bindings': made from an address, and ``int()`` gives it back."""

    def __init__(self, address: int = 0) -> None:
        self._address = address

    def __int__(self) -> int:
        return self._address


class cudaStream_t(Handle):
    pass


class cudaEvent_t(Handle):
    pass


class cudaGraph_t(Handle):
    pass


class cudaGraphExec_t(Handle):
    pass


Operation = Callable[[], None]


class Queue:
    """A stream: operations, how many of them ran, and those being captured."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.ran = 0
        self.captured: list[Operation] | None = None
        self.invalid = False

    def add(self, operation: Operation) -> None:
        (self.operations if self.captured is None else self.captured).append(operation)

    def drain(self, position: int | None = None) -> None:
        end = len(self.operations) if position is None else position
        while self.ran < end:
            operation = self.operations[self.ran]
            self.ran += 1
            operation()


class FakeCuda:
    """One device of ``memory`` bytes."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStream_t = cudaStream_t
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self, *, devices: int = 1, memory: int = 1 << 30) -> None:
        self.devices, self.memory = devices, memory
        self.arrays: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.queues: dict[int, Queue] = {}
        self.events: dict[int, tuple[Queue, int] | None] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.executables: dict[int, list[Operation]] = {}
        self.calls: Counter[str] = Counter()
        self.lost: cudaError_t | None = None
        self.failing: dict[str, tuple[int, cudaError_t]] = {}
        self._handles = 0x1000

    def fail(self, call: str, code: cudaError_t, *, after: int = 0) -> None:
        """Have a call fail from its ``after``-th time on; the context is then lost."""
        self.failing[call] = (self.calls[call] + after, code)

    def used(self) -> int:
        return sum(len(array) for array in self.arrays.values())

    def held(self) -> dict[str, int]:
        """What was made and not released."""
        kinds = {
            "arrays": self.arrays,
            "streams": self.queues,
            "events": self.events,
            "graphs": self.graphs,
            "executables": self.executables,
        }
        return {name: len(entries) for name, entries in kinds.items() if entries}

    def view(self, address: int, size: int) -> Array:
        """Device memory; an address outside every allocation is CUDA's illegal address."""
        for base, array in self.arrays.items():
            if base <= address and address + size <= base + len(array):
                return np.frombuffer(array, np.uint8)[address - base : address - base + size]
        self.lost = cudaError_t.cudaErrorIllegalAddress
        raise IllegalAddress(f"{size} bytes at {address:#x}")

    def queue(self, stream: Any) -> Queue:
        return self.queues[int(stream)]

    def _enter(self, name: str) -> cudaError_t:
        count = self.calls[name]
        self.calls[name] += 1
        if self.lost is not None:
            return self.lost
        if name in self.failing and count >= self.failing[name][0]:
            self.lost = self.failing[name][1]
            return self.lost
        return cudaError_t.cudaSuccess

    def _capturing(self) -> bool:
        """A call that no capture allows; the capture is lost by it."""
        capturing = [queue for queue in self.queues.values() if queue.captured is not None]
        for queue in capturing:
            queue.invalid = True
        return bool(capturing)

    def _new(self) -> int:
        self._handles += 0x10
        return self._handles

    def _drain(self, queue: Queue, position: int | None = None) -> cudaError_t:
        try:
            queue.drain(position)
        except IllegalAddress:
            return cudaError_t.cudaErrorIllegalAddress
        return self.lost or cudaError_t.cudaSuccess

    # The calls, as the bindings have them.

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if self.devices == 0:
            return cudaError_t.cudaErrorNoDevice, 0
        return self._enter("cudaGetDeviceCount"), self.devices

    def cudaGetErrorName(self, error: Any) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, f"what {error.name} means".encode()

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (self.lost or cudaError_t.cudaSuccess,)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, self.memory - self.used(), self.memory

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if error := self._enter("cudaMalloc"):
            return error, None
        if self._capturing():
            return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        if self.used() + size > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, None
        raw = (ctypes.c_uint8 * (size + ALIGNMENT))()
        base = -(-ctypes.addressof(raw) // ALIGNMENT) * ALIGNMENT
        array = (ctypes.c_uint8 * size).from_buffer(raw, base - ctypes.addressof(raw))
        np.frombuffer(array, np.uint8)[:] = 0xA5  # what was there before
        self.arrays[base] = array
        return cudaError_t.cudaSuccess, base

    def cudaFree(self, devPtr: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaFree"):
            return (error,)
        del self.arrays[int(devPtr)]
        return (cudaError_t.cudaSuccess,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        if error := self._enter("cudaHostAlloc"):
            return error, None
        raw = (ctypes.c_uint8 * size)()
        self.pinned[ctypes.addressof(raw)] = raw
        return cudaError_t.cudaSuccess, ctypes.addressof(raw)

    def cudaFreeHost(self, ptr: Any) -> tuple[Any, ...]:
        del self.pinned[int(ptr)]
        return (self._enter("cudaFreeHost"),)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: Any
    ) -> tuple[Any, ...]:
        if error := self._enter("cudaMemcpyAsync"):
            return (error,)
        up = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        host = np.frombuffer((ctypes.c_uint8 * count).from_address(src if up else dst), np.uint8)
        paged = not any(p <= host.ctypes.data < p + len(raw) for p, raw in self.pinned.items())
        source = host.copy() if up and paged else host  # pageable memory is staged at once

        def copy() -> None:
            if up:
                self.view(dst, count)[:] = source
            else:
                host[:] = self.view(src, count)

        self.queue(stream).add(copy)
        return (cudaError_t.cudaSuccess,)

    def cudaMemsetAsync(
        self,
        devPtr: int,
        value: int,
        count: int,
        stream: Any,
    ) -> tuple[Any, ...]:
        if error := self._enter("cudaMemsetAsync"):
            return (error,)
        self.queue(stream).add(lambda: self.view(devPtr, count).fill(value))
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        if error := self._enter("cudaStreamCreateWithFlags"):
            return error, None
        handle = self._new()
        self.queues[handle] = Queue()
        return cudaError_t.cudaSuccess, cudaStream_t(handle)

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamDestroy"):
            return (error,)
        self._drain(self.queues.pop(int(stream)))
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamSynchronize"):
            return (error,)
        if self._capturing():
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        return (self._drain(self.queue(stream)),)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaEventDisableTiming
        if error := self._enter("cudaEventCreateWithFlags"):
            return error, None
        handle = self._new()
        self.events[handle] = None
        return cudaError_t.cudaSuccess, cudaEvent_t(handle)

    def cudaEventDestroy(self, event: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaEventDestroy"):
            return (error,)
        del self.events[int(event)]
        return (cudaError_t.cudaSuccess,)

    def cudaEventRecord(self, event: Any, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaEventRecord"):
            return (error,)
        queue = self.queue(stream)
        self.events[int(event)] = (queue, len(queue.operations))
        return (cudaError_t.cudaSuccess,)

    def cudaEventSynchronize(self, event: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaEventSynchronize"):
            return (error,)
        recorded = self.events[int(event)]
        return (self._drain(*recorded) if recorded else cudaError_t.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamWaitEvent"):
            return (error,)
        recorded = self.events[int(event)]
        if recorded is not None:
            queue, position = recorded
            self.queue(stream).add(lambda: queue.drain(position))
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamBeginCapture"):
            return (error,)
        queue = self.queue(stream)
        assert queue.captured is None
        queue.captured, queue.invalid = [], False
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamEndCapture"):
            return error, None
        queue = self.queue(stream)
        captured, queue.captured = queue.captured, None
        assert captured is not None
        if queue.invalid:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        handle = self._new()
        self.graphs[handle] = captured
        return cudaError_t.cudaSuccess, cudaGraph_t(handle)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        if error := self._enter("cudaGraphInstantiate"):
            return error, None
        handle = self._new()
        self.executables[handle] = list(self.graphs[int(graph)])
        return cudaError_t.cudaSuccess, cudaGraphExec_t(handle)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaGraphDestroy"):
            return (error,)
        del self.graphs[int(graph)]
        return (cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaGraphExecDestroy"):
            return (error,)
        del self.executables[int(graphExec)]
        return (cudaError_t.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaGraphLaunch"):
            return (error,)
        for operation in self.executables[int(graphExec)]:
            self.queue(stream).add(operation)
        return (cudaError_t.cudaSuccess,)


class IllegalAddress(Exception):
    """A copy or a kernel touched memory that is not the device's."""

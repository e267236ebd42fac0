# ruff: noqa: N801, N802, N803, N815, ARG002 - names and arguments are the bindings'
"""``cuda.bindings.runtime`` in host memory, with a device's order of things and its refusals.

Work on a stream runs whenever a seeded scheduler likes: any call may let any stream that is not
waiting for an event advance, by as much as one phase of one operation. What a real device leaves
to luck is recorded in ``violations``: two accesses to the same memory, one of them a write, that
neither a stream, an event nor a wait on the host puts in order; page-locked memory that the host
writes while a copy of it is pending; memory released under pending work; a graph without nodes.
Memory holds rubbish before its first use and after its release. ``test_bindings.py`` compares
names and arguments with the real module.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.runtime.backends.fake_device import (
    LEGACY,
    Entry,
    FakeDevice,
    IllegalAddress,
    Mark,
    Queue,
    Work,
    join,
    overlap,
)

Array = npt.NDArray[Any]
ALIGNMENT = 512
RUBBISH = 0xFF  # NaN as a float, 255 as a label


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorDevicesUnavailable = 46
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorNotSupported = 801
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureMerge = 902
    cudaErrorStreamCaptureUnmatched = 903
    cudaErrorStreamCaptureUnjoined = 904
    cudaErrorStreamCaptureIsolation = 905
    cudaErrorStreamCaptureImplicit = 906
    cudaErrorStreamCaptureWrongThread = 908


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class cudaMemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrIntegrated = 18


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


class FakeCuda(FakeDevice):
    """Devices of ``memory`` bytes each; every public call is one of the bindings'."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaMemoryType = cudaMemoryType
    cudaDeviceAttr = cudaDeviceAttr
    cudaStream_t = cudaStream_t
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaHostAllocMapped = 2

    def __init__(
        self, *, devices: int = 1, memory: int = 1 << 30, seed: int = 0, integrated: bool = False
    ) -> None:
        super().__init__(seed)
        self.devices, self.memory, self.integrated = devices, memory, integrated
        self.arrays: dict[int, Any] = {}
        self.places: dict[int, int] = {}  # device of each allocation
        self.spare: list[Any] = []  # released, to be handed out again
        self.pinned: dict[int, Any] = {}
        self.hidden: dict[int, Any] = {}  # copies that another library made of what was bound
        self.events: dict[int, Mark | None] = {}
        self.event_devices: dict[int, int] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.calls: Counter[str] = Counter()
        self.failing: dict[str, tuple[int, cudaError_t, bool]] = {}
        self._handles = 0x1000
        for name in dir(type(self)):
            call = getattr(self, name)
            if name.startswith("cuda") and callable(call) and not isinstance(call, type):
                setattr(self, name, functools.partial(self._locked, call))

    def _locked(self, call: Callable[..., Any], *arguments: Any) -> Any:
        with self.lock:
            self.idle()
            result = call(*arguments)
            self.idle()
            return result

    def fail(self, call: str, code: cudaError_t, *, after: int = 0, sticky: bool = True) -> None:
        """Have a call fail from its ``after``-th time on; a sticky error loses the context."""
        self.failing[call] = (self.calls[call] + after, code, sticky)

    def used(self) -> int:
        return sum(len(array) for array in self.arrays.values())

    def held(self) -> dict[str, int]:
        """What was made and not released."""
        graphs = len(self.graphs) + len(self.executables)
        counts = {"arrays": len(self.arrays), "streams": len(self.queues) - 1, "graphs": graphs}
        counts["events"] = len(self.events)
        return {name: count for name, count in counts.items() if count}

    def view(self, address: int, size: int) -> Array:
        """Device memory; an address outside every allocation is CUDA's illegal address."""
        places = [self.arrays, self.hidden, *([self.pinned] if self.integrated else [])]
        for allocations in places:
            for base, array in allocations.items():
                if base <= address and address + size <= base + len(array):
                    return np.frombuffer(array, np.uint8)[address - base : address - base + size]
        self.lost = cudaError_t.cudaErrorIllegalAddress
        raise IllegalAddress(f"{size} bytes at {address:#x}")

    def fits(self, address: int, size: int) -> bool:
        """Whether one allocation holds all of it."""
        kept = self.lost
        try:
            self.view(address, size)
        except IllegalAddress:
            self.lost = kept
            return False
        return True

    def _enter(self, name: str) -> cudaError_t:
        count = self.calls[name]
        self.calls[name] += 1
        if self.lost is not None:
            return self.lost
        if name in self.failing and count >= self.failing[name][0]:
            _, code, sticky = self.failing[name]
            if sticky:
                self.lost = code
            return code
        return cudaError_t.cudaSuccess

    def _capturing(self) -> bool:
        """A call that no capture allows in its thread; the capture is lost by it."""
        thread = threading.get_ident()
        capturing = [
            queue
            for queue in self.queues.values()
            if queue.captured is not None and queue.capturing_thread == thread
        ]
        for queue in capturing:
            queue.invalid = True
        return bool(capturing)

    def _new(self) -> int:
        self._handles += 0x10
        return self._handles

    # The calls, as the bindings have them.

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if self.devices == 0:
            return cudaError_t.cudaErrorNoDevice, 0
        return self._enter("cudaGetDeviceCount"), self.devices

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return self._enter("cudaGetDevice"), self.current

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        if error := self._enter("cudaSetDevice"):
            return (error,)
        if not 0 <= device < self.devices:
            return (cudaError_t.cudaErrorInvalidDevice,)
        self._current.device = device
        return (cudaError_t.cudaSuccess,)

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Any, ...]:
        return self._enter("cudaDeviceGetAttribute"), int(self.integrated)

    def cudaDeviceSynchronize(self) -> tuple[Any, ...]:
        if error := self._enter("cudaDeviceSynchronize"):
            return (error,)
        if self._capturing():
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        for handle in list(self.queues):
            self.drain(handle)
        return (self.lost or cudaError_t.cudaSuccess,)

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
        again = next((array for array in self.spare if len(array) == size), None)
        if again is not None:
            self.spare.remove(again)
            array = again
        else:
            raw = (ctypes.c_uint8 * (size + ALIGNMENT))()
            base = -(-ctypes.addressof(raw) // ALIGNMENT) * ALIGNMENT
            array = (ctypes.c_uint8 * size).from_buffer(raw, base - ctypes.addressof(raw))
        np.frombuffer(array, np.uint8)[:] = RUBBISH
        self.arrays[ctypes.addressof(array)] = array
        self.places[ctypes.addressof(array)] = self.current
        return cudaError_t.cudaSuccess, ctypes.addressof(array)

    def cudaFree(self, devPtr: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaFree"):
            return (error,)
        array = self.arrays.pop(int(devPtr))
        self.places.pop(int(devPtr), None)
        area = (int(devPtr), int(devPtr) + len(array))
        for access in self.unfinished(area):
            self.violate(f"memory was released under {access.name}")
        self.accesses = [a for a in self.accesses if not overlap(a.area, area)]
        np.frombuffer(array, np.uint8)[:] = RUBBISH
        self.spare.append(array)
        return (cudaError_t.cudaSuccess,)

    def cudaPointerGetAttributes(self, ptr: int) -> tuple[Any, ...]:
        if error := self._enter("cudaPointerGetAttributes"):
            return error, None
        for base, array in self.arrays.items():
            if base <= int(ptr) < base + len(array):
                kind = cudaMemoryType.cudaMemoryTypeDevice
                return cudaError_t.cudaSuccess, SimpleNamespace(
                    type=kind, device=self.places.get(base, 0)
                )
        pinned = any(base <= int(ptr) < base + len(raw) for base, raw in self.pinned.items())
        kind = cudaMemoryType(int(pinned))
        return cudaError_t.cudaSuccess, SimpleNamespace(type=kind, device=-2)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        if error := self._enter("cudaHostAlloc"):
            return error, None
        raw = (ctypes.c_uint8 * (size + 4096))()
        base = -(-ctypes.addressof(raw) // 4096) * 4096
        array = (ctypes.c_uint8 * size).from_buffer(raw, base - ctypes.addressof(raw))
        self.pinned[base] = array
        return cudaError_t.cudaSuccess, base

    def cudaHostGetDevicePointer(self, pHost: int, flags: int) -> tuple[Any, ...]:
        return self._enter("cudaHostGetDevicePointer"), pHost

    def cudaFreeHost(self, ptr: Any) -> tuple[Any, ...]:
        self.pinned.pop(int(ptr))
        return (self._enter("cudaFreeHost"),)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: Any
    ) -> tuple[Any, ...]:
        if error := self._enter("cudaMemcpyAsync"):
            return (error,)
        target, source = (dst, dst + count), (src, src + count)
        if kind == cudaMemcpyKind.cudaMemcpyDeviceToDevice:

            def copy() -> None:
                self.view(dst, count)[:] = self.view(src, count)

            self.add(stream, Work("copy on the device", [copy], [source], [target]))
        elif kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            self._upload(dst, src, count, stream)
        else:
            self._download(dst, src, count, stream)
        return (cudaError_t.cudaSuccess,)

    def _is_pinned(self, address: int) -> bool:
        return any(base <= address < base + len(raw) for base, raw in self.pinned.items())

    def _upload(self, dst: int, src: int, count: int, stream: Any) -> None:
        host = np.frombuffer((ctypes.c_uint8 * count).from_address(src), np.uint8)
        before = host.copy()  # pageable memory is staged at once
        pinned = self._is_pinned(src)

        def copy() -> None:
            if pinned and not np.array_equal(host, before):
                self.violate("page-locked memory was written while its upload was pending")
            self.view(dst, count)[:] = host if pinned else before

        reads = [(src, src + count)] if pinned else []
        self.add(stream, Work("upload", [copy], reads, [(dst, dst + count)]))

    def _download(self, dst: int, src: int, count: int, stream: Any) -> None:
        host = np.frombuffer((ctypes.c_uint8 * count).from_address(dst), np.uint8)
        pinned = self._is_pinned(dst)
        area = [(dst, dst + count)] if pinned else []

        def copy() -> None:
            host[:] = self.view(src, count)

        self.add(stream, Work("download", [copy], [(src, src + count)], area))
        if not pinned:  # into pageable memory the copy is over when the call returns
            self.drain(stream)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaMemsetAsync"):
            return (error,)
        work = Work(
            "memset", [lambda: self.view(devPtr, count).fill(value)], [], [(devPtr, devPtr + count)]
        )
        self.add(stream, work)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        if error := self._enter("cudaStreamCreateWithFlags"):
            return error, None
        handle = self._new()
        self.queues[handle] = Queue(handle, self.current)
        return cudaError_t.cudaSuccess, cudaStream_t(handle)

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamDestroy"):
            return (error,)
        self.drain(stream)
        del self.queues[int(stream)]
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamSynchronize"):
            return (error,)
        if self._capturing():
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        queue = self.queue(stream)
        self.run_until(lambda: not queue.entries)
        join(self.host, queue.clock)
        return (self.lost or cudaError_t.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaEventDisableTiming
        if error := self._enter("cudaEventCreateWithFlags"):
            return error, None
        handle = self._new()
        self.events[handle] = None
        self.event_devices[handle] = self.current
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
        if queue.handle != LEGACY and self.event_devices[int(event)] != queue.device:
            return (cudaError_t.cudaErrorInvalidResourceHandle,)
        join(queue.clock, self.host)
        mark = Mark(dict(queue.clock))
        self.events[int(event)] = mark
        queue.entries.append(Entry(Work("event", [lambda: setattr(mark, "done", True)])))
        return (cudaError_t.cudaSuccess,)

    def cudaEventSynchronize(self, event: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaEventSynchronize"):
            return (error,)
        if self._capturing():
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        mark = self.events[int(event)]
        if mark is None:
            return (cudaError_t.cudaSuccess,)
        self.run_until(lambda: mark.done)
        join(self.host, mark.clock)
        return (self.lost or cudaError_t.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamWaitEvent"):
            return (error,)
        mark, queue = self.events[int(event)], self.queue(stream)
        if mark is not None:
            join(queue.clock, mark.clock)
            queue.entries.append(Entry(Work("wait"), waits_for=mark))
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        if error := self._enter("cudaStreamBeginCapture"):
            return (error,)
        queue = self.queue(stream)
        assert queue.captured is None
        queue.captured, queue.invalid = [], False
        queue.capturing_thread = threading.get_ident()
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        queue = self.queue(stream)
        captured, queue.captured = queue.captured, None
        if error := self._enter("cudaStreamEndCapture"):
            return error, None
        assert captured is not None
        if queue.invalid:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        handle = self._new()
        self.graphs[handle] = captured
        return cudaError_t.cudaSuccess, cudaGraph_t(handle)

    def cudaGraphGetNodes(self, graph: Any, numNodes: int) -> tuple[Any, ...]:
        return self._enter("cudaGraphGetNodes"), [], len(self.graphs[int(graph)])

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        if error := self._enter("cudaGraphInstantiate"):
            return error, None
        if not self.graphs[int(graph)]:
            self.violate("a captured graph has no nodes: its replay does nothing")
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
        for work in self.executables[int(graphExec)]:
            self.add(stream, work)
        return (cudaError_t.cudaSuccess,)

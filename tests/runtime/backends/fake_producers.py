"""Other libraries on the fake device: a caching allocator like torch's, readers by DLPack."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamseg.runtime.backends.dlpack import export_capsule, tensor_of
from tests.runtime.backends.fake_cuda import RUBBISH, FakeCuda
from tests.runtime.backends.fake_device import Work


class Tensor:
    """By DLPack, and by an interface of version 2 that names no stream, as torch's."""

    def __init__(self, producer: TorchLike, pointer: int, shape: tuple[int, ...]) -> None:
        self.producer, self.pointer, self.shape = producer, pointer, shape

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: int | None = None) -> object:
        cuda = self.producer.cuda
        event = cuda.cudaEventCreateWithFlags(2)[1]
        cuda.cudaEventRecord(event, self.producer.stream)
        cuda.cudaStreamWaitEvent(cuda.cudaStream_t(stream or 1), event, 0)
        cuda.cudaEventDestroy(event)
        return export_capsule(self.pointer, self.shape, "uint8", device=0, owner=self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self.pointer, False),
            "version": 2,
        }


class TorchLike:
    """Makes frames on a stream of its own; memory is used again as soon as its tensor is gone."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.stream = cuda.cudaStreamCreateWithFlags(1)[1]
        self.free: list[int] = []
        self.all: list[int] = []
        self.closed = False

    def frame(self, image: NDArray[np.uint8]) -> Tensor:
        if not self.free:
            self.all.append(self.cuda.cudaMalloc(image.size)[1])
            self.free.append(self.all[-1])
        tensor = Tensor(self, self.free.pop(), image.shape)
        pointer = tensor.pointer
        self._write(pointer, np.ascontiguousarray(image))
        weakref.finalize(tensor, self._recycle, pointer, image.size)
        return tensor

    def _recycle(self, pointer: int, size: int) -> None:
        if self.closed:
            return
        self._write(pointer, np.full(size, RUBBISH, np.uint8))
        self.free.append(pointer)

    def _write(self, pointer: int, content: NDArray[np.uint8]) -> None:
        def write() -> None:
            self.cuda.view(pointer, content.size)[:] = content.reshape(-1)

        area = [(pointer, pointer + content.size)]
        self.cuda.add(self.stream, Work("producer", [write], [], area))

    def close(self) -> None:
        self.closed = True
        self.cuda.cudaDeviceSynchronize()
        for pointer in self.all:
            self.cuda.cudaFree(pointer)
        self.cuda.cudaStreamDestroy(self.stream)


def read_by_dlpack(cuda: FakeCuda, labels: Any, stream: Any, seen: list[NDArray[np.uint8]]) -> None:
    """Put a copy of the labels on a consumer's stream; nobody waits for it here."""
    capsule = labels.__dlpack__(stream=int(stream))  # owns what ``tensor`` points to
    tensor = tensor_of(capsule)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    read_memory(cuda, int(tensor.data or 0), shape, stream, seen)


def read_by_interface(
    cuda: FakeCuda, labels: Any, stream: Any, seen: list[NDArray[np.uint8]]
) -> None:
    """The same by ``__cuda_array_interface__``: the reader waits for the stream that it names."""
    interface = labels.__cuda_array_interface__
    event = cuda.cudaEventCreateWithFlags(2)[1]
    cuda.cudaEventRecord(event, cuda.cudaStream_t(interface["stream"]))
    cuda.cudaStreamWaitEvent(stream, event, 0)
    cuda.cudaEventDestroy(event)
    read_memory(cuda, interface["data"][0], interface["shape"], stream, seen)


def read_memory(
    cuda: FakeCuda,
    pointer: int,
    shape: tuple[int, ...],
    stream: Any,
    seen: list[NDArray[np.uint8]],
) -> None:
    """Put a copy of an array on a stream, into ``seen``."""
    size = int(np.prod(shape))

    def read() -> None:
        seen.append(cuda.view(pointer, size).reshape(shape).copy())

    cuda.add(stream, Work("consumer", [read], [(pointer, pointer + size)], []))


class StreamObject:
    """As CuPy's: owns its stream."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.handle = cuda, cuda.cudaStreamCreateWithFlags(1)[1]
        self.ptr = int(self.handle)
        weakref.finalize(self, cuda.cudaStreamDestroy, self.handle)

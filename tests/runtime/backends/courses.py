"""Courses that a stream on the fake device plays beside the CPU's; each says if all is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamseg.runtime.stream import Stream
from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_producers import (
    StreamObject,
    Tensor,
    TorchLike,
    read_by_dlpack,
    read_by_interface,
)
from tests.runtime.backends.test_device_frames import Buffer, read_labels
from tests.runtime.backends.test_tensorrt import frames
from tests.runtime.toy import HEIGHT, WIDTH

SHAPE = (HEIGHT, WIDTH, 3)
Seen = list[NDArray[np.uint8]]
Course = Callable[[Stream, Stream, FakeCuda], bool]


def play_host(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:  # noqa: ARG001
    """Frames from the host, two steps under way, and now and then the logits and the state."""
    wanted = []
    images = frames(26, seed=4)
    for image in images:
        step = cpu.step(image)
        wanted.append((step.labels.copy(), np.array(step.logits)))
    right = True
    for result in gpu.steps_through(images):
        labels, logits = wanted[result.step]
        right &= np.array_equal(result.labels, labels)
        if result.step % 3 == 0:
            right &= np.array_equal(np.array(result.logits), logits)
    ours, theirs = gpu.snapshot().tensors, cpu.snapshot().tensors
    return right and all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def play_siblings(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """Two streams whose steps overlap."""
    other = gpu.sibling()
    images = frames(12, seed=4)
    right = True
    try:
        for image in images:
            gpu.begin(image)
            other.begin(image)
            wanted = cpu.step(image).labels
            right &= np.array_equal(gpu.finish().labels, wanted)
            right &= np.array_equal(other.finish().labels, wanted)
    finally:
        other.close()
    return right and play_host(gpu.sibling(), cpu_again(cpu), cuda)


def cpu_again(cpu: Stream) -> Stream:
    cpu.reset()
    return cpu


def play_device(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """A producer on a stream of its own, which overwrites one frame without waiting on the host."""
    frame = Buffer(cuda, SHAPE)
    frame.stream = cuda.cudaStreamCreateWithFlags(1)[1]
    warm(gpu, cpu)
    right = True
    try:
        for image in frames(16, seed=7):
            frame.fill(image)
            result = gpu.step_device(frame)
            right &= np.array_equal(read_labels(cuda, result.labels), cpu.step(image).labels)
    finally:
        cuda.cudaStreamDestroy(frame.stream)
        frame.free()
    return right


def play_torch(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """New frames by DLPack from an allocator that hands memory out again; labels by DLPack."""
    reader = cuda.cudaStreamCreateWithFlags(1)[1]

    def read(frame: Tensor, seen: Seen) -> None:
        read_by_dlpack(cuda, gpu.step_device(frame).labels, reader, seen)

    try:
        return play_new_frames(gpu, cpu, cuda, read, frames(16, seed=8))
    finally:
        cuda.cudaStreamDestroy(reader)


def play_new_frames(
    gpu: Stream,
    cpu: Stream,
    cuda: FakeCuda,
    read: Callable[[Tensor, Seen], None],
    images: list[NDArray[np.uint8]],
) -> bool:
    """A new tensor for every frame; ``read`` steps and has the labels copied into a list."""
    producer = TorchLike(cuda)
    warm(gpu, cpu)
    seen: list[Seen] = []  # one list a frame: streams run in any order
    wanted = []
    try:
        for image in images:
            seen.append([])
            read(producer.frame(image), seen[-1])
            wanted.append(cpu.step(image).labels.copy())
        cuda.cudaDeviceSynchronize()
    finally:
        producer.close()
    return all(np.array_equal(a, b) for (a,), b in zip(seen, wanted, strict=True))


def play_reused(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """One frame, overwritten on its stream at once; labels by DLPack on another stream."""
    frame, reader = Buffer(cuda, SHAPE), cuda.cudaStreamCreateWithFlags(1)[1]
    frame.stream = cuda.cudaStreamCreateWithFlags(1)[1]
    warm(gpu, cpu)
    seen: list[NDArray[np.uint8]] = []
    wanted = []
    try:
        for image in frames(12, seed=5):
            frame.fill(image)
            read_by_dlpack(cuda, gpu.step_device(frame).labels, reader, seen)
            wanted.append(cpu.step(image).labels.copy())
        cuda.cudaDeviceSynchronize()
    finally:
        for stream in (reader, frame.stream):
            cuda.cudaStreamDestroy(stream)
        frame.free()
    return all(np.array_equal(a, b) for a, b in zip(seen, wanted, strict=True))


def play_unnamed(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """An interface of version 2 that names no stream: PyCUDA's, written on some stream."""
    frame = Buffer(cuda, SHAPE, version=2)
    frame.stream = cuda.cudaStreamCreateWithFlags(1)[1]
    warm(gpu, cpu)
    right = True
    try:
        for image in frames(12, seed=9):
            frame.fill(image)
            labels = gpu.step_device(frame).labels
            right &= np.array_equal(read_labels(cuda, labels), cpu.step(image).labels)
    finally:
        cuda.cudaStreamDestroy(frame.stream)
        frame.free()
    return right


def play_named(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """An interface that says the frame is ready; the caller names the stream that it is made on.

    The caller overwrites the frame there at once, and reads labels there.
    """
    frame, stream = Buffer(cuda, SHAPE), cuda.cudaStreamCreateWithFlags(1)[1]
    warm(gpu, cpu)
    seen: list[NDArray[np.uint8]] = []
    wanted = []
    try:
        for image in frames(12, seed=6):
            frame.stream = stream
            frame.fill(image)
            frame.stream = None
            read_by_dlpack(cuda, gpu.step_device(frame, stream=int(stream)).labels, stream, seen)
            wanted.append(cpu.step(image).labels.copy())
        cuda.cudaDeviceSynchronize()
    finally:
        cuda.cudaStreamDestroy(stream)
        frame.free()
    return all(np.array_equal(a, b) for a, b in zip(seen, wanted, strict=True))


def play_destroyed(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """Labels are read on a stream that is known by its handle only, and soon destroyed."""

    def read(frame: Tensor, seen: Seen) -> None:
        reader = cuda.cudaStreamCreateWithFlags(1)[1]
        read_by_dlpack(cuda, gpu.step_device(frame).labels, reader, seen)
        cuda.cudaStreamDestroy(reader)

    return play_new_frames(gpu, cpu, cuda, read, frames(12, seed=3))


def play_interface(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """Labels by the array interface, which names our stream and not the reader's."""
    reader = cuda.cudaStreamCreateWithFlags(1)[1]

    def read(frame: Tensor, seen: Seen) -> None:
        read_by_interface(cuda, gpu.step_device(frame).labels, reader, seen)

    try:
        return play_new_frames(gpu, cpu, cuda, read, frames(12, seed=2))
    finally:
        cuda.cudaStreamDestroy(reader)


def play_kept(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """A stream object that destroys its stream when nobody keeps it; a new one for every frame."""

    def read(frame: Tensor, seen: Seen) -> None:
        side = StreamObject(cuda)
        read_by_dlpack(cuda, gpu.step_device(frame, stream=side).labels, side.handle, seen)

    return play_new_frames(gpu, cpu, cuda, read, frames(12, seed=1))


def play_elsewhere(gpu: Stream, cpu: Stream, cuda: FakeCuda) -> bool:
    """The thread's current device is another one, and stays so."""
    cuda.cudaSetDevice(1)
    try:
        return play_host(gpu, cpu, cuda) and cuda.current == 1
    finally:
        cuda.cudaSetDevice(0)


def warm(gpu: Stream, cpu: Stream) -> None:
    """Labels of the first steps do not depend on the frame."""
    for image in frames(6):
        gpu.step(image), cpu.step(image)


COURSES: dict[str, Course] = {
    course.__name__.removeprefix("play_"): course
    for course in (
        *(play_host, play_siblings, play_device, play_torch),
        *(play_reused, play_unnamed, play_named, play_elsewhere),
        *(play_destroyed, play_interface, play_kept),
    )
}

"""Arrays of other libraries in device memory: where they lie, and when they are ready.

CuPy, torch and numba describe this by DLPack (``dlpack.h``, versions 0.x and 1.x), pycuda by
``__cuda_array_interface__`` (versions 2 and 3 of its text). Nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamseg.errors import FrameMismatch
from streamseg.runtime.backends.cuda import LEGACY_STREAM, DeviceArray
from streamseg.runtime.backends.dlpack import tensor_of

# DLPack's device types, and its kinds of numbers as NumPy's letters.
_CUDA, _CUDA_MANAGED = 2, 13
_DEVICES = {1: "the CPU", 3: "page-locked host memory", 10: "a ROCm device", 4: "an OpenCL device"}
# What streams of torch, CuPy, and pycuda or numba call their handle.
_HANDLES = ("cuda_stream", "ptr", "handle")
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


@dataclass(frozen=True)
class DeviceFrame:
    """A frame in device memory that another library owns, and how its work and ours are ordered.

    Attributes:
        array: where it lies.
        owner: keeps the memory; to be held until the step has read it.
        after: handle of the stream whose work so far the step waits for; 0: none.
        before: handle of the stream whose later work waits for the step, since it may overwrite
            the frame.
        stream_owner: keeps the stream ``before``; ``None`` where nothing does.
        known: whether ``after`` covers all work on the frame. Where it does not (version 2 of the
            array interface names no stream), the step waits for the whole device, and the caller
            for the step.
    """

    array: DeviceArray
    owner: object
    after: int = 0
    before: int = LEGACY_STREAM
    stream_owner: object = None
    known: bool = True


def is_device_array(source: object) -> bool:
    """Whether an object says by one of the two protocols where its content lies."""
    return hasattr(source, "__cuda_array_interface__") or hasattr(source, "__dlpack_device__")


def stream_handle(stream: object) -> int:
    """The handle of a CUDA stream: a number, or a stream of torch, CuPy, pycuda or numba.

    Raises:
        FrameMismatch: it is not one of these, or the ambiguous stream 0.
    """
    for name in _HANDLES:
        stream = getattr(stream, name, stream)
    try:
        number = int(getattr(stream, "value", stream))  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise FrameMismatch(
            f"stream is {type(stream).__name__}, expected a CUDA stream or its handle as a number"
        ) from None
    return number or LEGACY_STREAM


def keeps_stream(stream: object) -> bool:
    """Whether a CUDA stream lives as long as this object: not a handle, nor a wrapper of one."""
    wrapper = type(stream).__name__ == "ExternalStream"  # of torch and CuPy
    return not wrapper and any(hasattr(stream, name) for name in _HANDLES)


def view_device_array(source: Any, consumer: int = 0, stream: int = 0) -> DeviceFrame:
    """Where an array lies on the first CUDA device, and what its readers have to wait for.

    DLPack is preferred: it orders the producer's work before the consumer's, while torch's
    ``__cuda_array_interface__`` is of version 2 and names no stream.

    Args:
        source: an array of CuPy, torch, pycuda, numba or another library.
        consumer: handle of the CUDA stream that will use it; 0 when it is not known.
        stream: handle of the stream that the caller works on the array with; 0 when not given.
    Raises:
        FrameMismatch: it is not a dense array on the first device, or describes itself wrongly.
    """
    try:
        if hasattr(source, "__dlpack_device__"):
            return _read_dlpack(source, consumer, stream)
        interface = getattr(source, "__cuda_array_interface__", None)
    # What torch raises for tensors that it cannot share.
    except (AttributeError, BufferError, RuntimeError, TypeError) as error:
        raise FrameMismatch(f"the array cannot be shared: {error}") from None
    if interface is None:
        raise FrameMismatch(
            f"{type(source).__name__} has neither __dlpack__ nor __cuda_array_interface__; give an "
            "array of CuPy, torch, pycuda or numba in device memory"
        )
    array, known = _read_interface(interface)
    after = stream or array.stream
    return DeviceFrame(array, source, after, after or LEGACY_STREAM, known=known or bool(stream))


def _read_interface(interface: Any) -> tuple[DeviceArray, bool]:
    """The array, and whether the interface says which stream its content is ready on."""
    try:
        shape = tuple(int(extent) for extent in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        pointer = int(interface["data"][0] or 0)
        strides, mask = interface.get("strides"), interface.get("mask")
        stream, version = interface.get("stream"), int(interface["version"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FrameMismatch(f"its __cuda_array_interface__ is damaged: {error!r}") from None
    if mask is not None:
        raise FrameMismatch("the array has a mask, which no frame has")
    if stream == 0:
        raise FrameMismatch(
            "its __cuda_array_interface__ names stream 0, which the protocol forbids because it "
            "may mean two streams; 1 is the default stream"
        )
    _require_dense(shape, None if strides is None else tuple(strides), dtype.itemsize)
    _require_memory(pointer, shape)
    named = 0 if stream is None else int(stream)
    return DeviceArray(pointer, shape, _name(dtype), named), version >= 3


def _read_dlpack(source: Any, consumer: int, stream: int) -> DeviceFrame:
    device, index = (int(value) for value in source.__dlpack_device__())
    if device not in (_CUDA, _CUDA_MANAGED):
        place = _DEVICES.get(device, f"a device of DLPack's type {device}")
        raise FrameMismatch(f"the array is on {place}, expected a CUDA device")
    if index != 0:
        raise FrameMismatch(f"the array is on CUDA device {index}, the model on device 0")
    # The producer makes this stream wait for what it has yet to do.
    capsule = source.__dlpack__(stream=consumer or LEGACY_STREAM)
    tensor = tensor_of(capsule)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    kind = _KINDS.get(tensor.code)
    if kind is None or tensor.lanes != 1 or tensor.bits % 8:
        raise FrameMismatch(
            f"the array's type is DLPack's {tensor.code} of {tensor.bits} bits, "
            "which NumPy does not have"
        )
    dtype = np.dtype(f"{kind}{tensor.bits // 8}")
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    _require_dense(shape, strides, dtype.itemsize)
    pointer = (tensor.data or 0) + tensor.byte_offset
    _require_memory(pointer, shape)
    waiting = 0 if consumer else LEGACY_STREAM
    # The capsule frees the array when it goes, since nobody has renamed it.
    array = DeviceArray(pointer, shape, _name(dtype), waiting)
    return DeviceFrame(array, capsule, stream or waiting, stream or LEGACY_STREAM)


def _require_dense(shape: tuple[int, ...], strides: Sequence[int] | None, itemsize: int) -> None:
    """Rows without gaps, last axis fastest; strides of axes with one element mean nothing."""
    if strides is None or 0 in shape:
        return
    expected = itemsize
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != expected:
            raise FrameMismatch(
                f"the array {list(shape)} has strides {list(strides)} in bytes, expected rows "
                "without gaps; make it contiguous on the device first"
            )
        expected *= extent


def _require_memory(pointer: int, shape: tuple[int, ...]) -> None:
    if pointer == 0 and 0 not in shape:
        raise FrameMismatch("the array's address is null")


def _name(dtype: np.dtype[Any]) -> str:
    if dtype.byteorder == ">":
        raise FrameMismatch(f"the array's type {dtype.str} has the other byte order")
    return str(dtype.name)

"""Arrays of other libraries in device memory: where they lie, and when they are ready.

CuPy, torch, numba and pycuda say it by ``__cuda_array_interface__`` (version 3 of its text), others
by DLPack (``dlpack.h``, versions 0.x and 1.x). Nothing is copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamseg.errors import FrameMismatch
from streamseg.runtime.backends.cuda import DeviceArray

# CUDA's names for the default stream in these protocols.
LEGACY_STREAM = 1
# DLPack's device types, and its kinds of numbers as NumPy's letters.
_CUDA, _CUDA_MANAGED = 2, 13
_DEVICES = {1: "the CPU", 3: "page-locked host memory", 10: "a ROCm device", 4: "an OpenCL device"}
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (
        ("tensor", _DLTensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


def is_device_array(source: object) -> bool:
    """Whether an object says by one of the two protocols where its content lies."""
    return hasattr(source, "__cuda_array_interface__") or hasattr(source, "__dlpack_device__")


def view_device_array(source: Any, consumer: int = 0) -> tuple[DeviceArray, object]:
    """Where an array lies on the first CUDA device.

    Args:
        source: an array of CuPy, torch, pycuda, numba or another library.
        consumer: handle of the CUDA stream that will use it; 0 when it is not known.
    Returns:
        The array, its ``stream`` the one that has to be waited for (0: none), and an object to
        hold while it is used.
    Raises:
        FrameMismatch: it is no dense array on the first device, or says so in an unknown way.
    """
    try:
        interface = getattr(source, "__cuda_array_interface__", None)
    except (AttributeError, RuntimeError, TypeError) as error:  # torch's, for what it cannot share
        raise FrameMismatch(f"the array cannot be shared: {error}") from None
    if interface is not None:
        return _read_interface(interface), source
    if hasattr(source, "__dlpack_device__"):
        return _read_dlpack(source, consumer)
    raise FrameMismatch(
        f"{type(source).__name__} has neither __cuda_array_interface__ nor __dlpack__; give an "
        "array of CuPy, torch, pycuda or numba in device memory"
    )


def _read_interface(interface: Any) -> DeviceArray:
    try:
        shape = tuple(int(extent) for extent in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        pointer = int(interface["data"][0] or 0)
        strides, mask = interface.get("strides"), interface.get("mask")
        stream = interface.get("stream")
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
    return DeviceArray(pointer, shape, _name(dtype), 0 if stream is None else int(stream))


def _read_dlpack(source: Any, consumer: int) -> tuple[DeviceArray, object]:
    device, index = (int(value) for value in source.__dlpack_device__())
    if device not in (_CUDA, _CUDA_MANAGED):
        place = _DEVICES.get(device, f"a device of DLPack's type {device}")
        raise FrameMismatch(f"the array lies on {place}, expected a CUDA device")
    if index != 0:
        raise FrameMismatch(f"the array lies on CUDA device {index}, the model on device 0")
    # The producer makes this stream wait for what it has yet to do.
    capsule = source.__dlpack__(stream=consumer or LEGACY_STREAM)
    tensor = _tensor_of(capsule)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    kind = _KINDS.get(tensor.code)
    if kind is None or tensor.lanes != 1 or tensor.bits % 8:
        raise FrameMismatch(
            f"the array's type is DLPack's {tensor.code} of {tensor.bits} bits, which NumPy has not"
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
    return DeviceArray(pointer, shape, _name(dtype), waiting), capsule


def _tensor_of(capsule: object) -> _DLTensor:
    python = ctypes.pythonapi
    python.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    if python.PyCapsule_IsValid(capsule, b"dltensor"):
        address = python.PyCapsule_GetPointer(capsule, b"dltensor")
        tensor: _DLTensor = _DLManagedTensor.from_address(address).tensor
        return tensor
    if python.PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        address = python.PyCapsule_GetPointer(capsule, b"dltensor_versioned")
        managed = _DLManagedTensorVersioned.from_address(address)
        if managed.major != 1:
            raise FrameMismatch(f"its DLPack is of version {managed.major}, expected 1")
        versioned: _DLTensor = managed.tensor
        return versioned
    raise FrameMismatch("its __dlpack__ gives no DLPack capsule, or one already used")


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

"""Capsules of DLPack (``dlpack.h``, versions 0.x and 1.x): read from others, and made."""

from __future__ import annotations

import ctypes

import numpy as np

from streamseg.errors import FrameMismatch

_CUDA = 2
_NAME = b"dltensor"


class TensorLayout(ctypes.Structure):
    """``DLTensor``: where an array lies, its shape, type and strides."""

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
        ("tensor", TensorLayout),
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
        ("tensor", TensorLayout),
    )


def tensor_of(capsule: object) -> TensorLayout:
    """What a capsule describes; the capsule stays unused and owns the memory.

    Raises:
        FrameMismatch: it is not a capsule, was used already, or is of an unknown version.
    """
    python = ctypes.pythonapi
    python.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    if python.PyCapsule_IsValid(capsule, _NAME):
        address = python.PyCapsule_GetPointer(capsule, _NAME)
        tensor: TensorLayout = _DLManagedTensor.from_address(address).tensor
        return tensor
    if python.PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        address = python.PyCapsule_GetPointer(capsule, b"dltensor_versioned")
        managed = _DLManagedTensorVersioned.from_address(address)
        if managed.major != 1:
            raise FrameMismatch(f"its DLPack is of version {managed.major}, expected 1")
        versioned: TensorLayout = managed.tensor
        return versioned
    raise FrameMismatch("its __dlpack__ gives no DLPack capsule, or one already used")


class _Memory:
    """Memory as NumPy is to see it; it looks at the address, not behind it."""

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: str, owner: object) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "data": (pointer, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }


def export_capsule(
    pointer: int, shape: tuple[int, ...], dtype: str, *, device: int, owner: object
) -> object:
    """A capsule of a dense array on a CUDA device; ``owner`` is held until its consumer is done.

    It is NumPy's, so that destructor and deleter are compiled code: Python's own would run while
    an exception is on its way, or in threads that are not Python's.
    """
    capsule: object = np.asarray(_Memory(pointer, shape, dtype, owner)).__dlpack__()
    tensor = tensor_of(capsule)
    tensor.device_type, tensor.device_id = _CUDA, device
    return capsule

"""Tensors and arrays as pickles describe them: checked first, made only when somebody asks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamseg.export.containers.pickle_machine import (
    PLAIN,
    Constructor,
    GlobalName,
    StandIn,
)

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGES.values()}
MAX_DIMENSIONS = 16
_CODE = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1)")
_ORDERS = ("<", ">", "|", "=")


@dataclass(eq=False)
class StorageRecord:
    """A block of a file's bytes; ``data`` is set where the file gives its place."""

    dtype: torch.dtype
    count: int
    data: memoryview | None = None
    offset: int = 0  # in elements, of a view of another storage

    @property
    def nbytes(self) -> int:
        """Bytes that the block must have."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A strided view of a storage."""

    storage: StorageRecord
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor if it were contiguous."""
        return math.prod(self.size) * self.dtype.itemsize

    def tensor(self) -> Tensor:
        """The tensor, sharing the file's memory.

        Raises:
            ValueError: it reaches outside its storage, or repeats the storage's elements.
        """
        count = math.prod(self.size)
        if count == 0:
            return torch.empty(self.size, dtype=self.dtype)
        data, size = self.storage.data, self.dtype.itemsize
        if data is None:
            raise ValueError("the bytes of a tensor are missing")
        first = self.offset + self.storage.offset
        last = first + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if (last + 1) * size > len(data) or count * size > len(data):
            raise ValueError(f"a tensor of {list(self.size)} reaches outside its {len(data)} bytes")
        if data.readonly:
            data = memoryview(bytearray(data))
        flat = torch.frombuffer(data, dtype=self.dtype, count=len(data) // size)
        return flat.as_strided(self.size, self.stride, first)


@dataclass(eq=False)
class DtypeRecord:
    """A numpy type: its code with the byte order, or an empty one for types without numbers."""

    code: str

    def take_state(self, state: Any) -> None:
        """Numpy's ``__setstate__``: the second entry is the byte order."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
        self.code = order + self.code[-2:] if self.code and order in _ORDERS else ""


@dataclass(eq=False)
class ArrayRecord:
    """A numpy array as its pickle gives it; without a type code it is not one of numbers."""

    code: str = ""
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: bytes | bytearray | str = b""

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return len(self.data)

    def take_state(self, state: Any) -> None:
        """Numpy's ``__setstate__``: (version, shape, type, order, bytes)."""
        _, shape, kind, fortran, data = state
        if isinstance(kind, DtypeRecord) and isinstance(data, (bytes, bytearray, str)):
            self.code, self.shape = kind.code, _extents(shape)
            self.fortran, self.data = bool(fortran), data

    def tensor(self) -> Tensor:
        """The values.

        Raises:
            ValueError: bytes and shape differ.
        """
        kind = np.dtype(self.code)
        # Python 2 stored bytes as text.
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        if math.prod(self.shape) * kind.itemsize != len(self.data):
            raise ValueError(f"an array of {list(self.shape)} has {len(self.data)} bytes")
        values = np.frombuffer(data, kind).reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(np.array(values, kind.newbyteorder("=")))


def _dtype(code: Any, *_: Any) -> DtypeRecord:
    text = code.decode("latin1") if isinstance(code, bytes) else code
    known = isinstance(text, str) and _CODE.fullmatch(text) is not None
    return DtypeRecord(text if known else "")


def _scalar(kind: Any, data: Any = b"") -> Any:
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(kind, DtypeRecord) or not kind.code or not isinstance(data, bytes):
        return StandIn("numpy.scalar")
    return np.frombuffer(data, np.dtype(kind.code), count=1)[0].item()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> ArrayRecord:
    found = ArrayRecord()
    found.take_state((1, shape, kind, order == "F", data))
    return found


def _extents(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise ValueError("a shape is not a short list of numbers")
    if not all(isinstance(value, int) and 0 <= value < 2**48 for value in values):
        raise ValueError("a shape has a number out of range")
    return tuple(values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    if not isinstance(storage, StorageRecord):
        return StandIn("torch.Tensor")
    extents, steps = _extents(size), _extents(stride)
    if len(extents) != len(steps) or not isinstance(offset, int) or offset < 0:
        raise ValueError("size and stride of a tensor do not fit")
    dtype = storage.dtype
    if len(rest) > 2 and isinstance(rest[2], GlobalName):
        dtype = _DTYPES.get(rest[2].name, dtype)
    return TensorRecord(storage, dtype, offset, extents, steps)


def _first_record(data: Any = None, *_: Any) -> Any:
    return data if isinstance(data, (TensorRecord, ArrayRecord)) else StandIn("torch.Tensor")


def _from_type(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    build = CONSTRUCTORS.get(function.path) if isinstance(function, GlobalName) else None
    return StandIn("torch.Tensor") if build is None else build(*arguments)


CONSTRUCTORS: dict[str, Constructor] = {
    **PLAIN,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _first_record,
    "torch._utils._rebuild_parameter_with_state": _first_record,
    "torch._utils._rebuild_device_tensor_from_numpy": _first_record,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first_record,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _first_record,
    "numpy.dtype": _dtype,
}
for _package in ("numpy.core", "numpy._core"):
    CONSTRUCTORS[f"{_package}.multiarray._reconstruct"] = lambda *_: ArrayRecord()
    CONSTRUCTORS[f"{_package}.multiarray.scalar"] = _scalar
    CONSTRUCTORS[f"{_package}.numeric._frombuffer"] = _from_buffer


def storage_record(identity: Any) -> tuple[str, StorageRecord]:
    """What torch's persistent id names: ``("storage", type, key, place, count, [view])``.

    Returns:
        The key of the block in the file, and the record.
    """
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise ValueError("it refers to something that is not a storage")
    kind, key, count = identity[1], identity[2], identity[4]
    dtype = _STORAGES.get(kind.name) if isinstance(kind, GlobalName) else None
    if dtype is None:
        raise ValueError("a tensor has a type that networks here do not use")
    _extents([count])
    return str(key) if isinstance(key, (str, int)) else "", StorageRecord(dtype, count)

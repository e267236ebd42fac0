"""Reading where other libraries' arrays lie: real protocols, NumPy's memory behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamseg.errors import FrameMismatch
from streamseg.runtime.backends.arrays import is_device_array, view_device_array
from streamseg.runtime.backends.cuda import DeviceArray


class Interface:
    """An array as CuPy, torch, numba and pycuda show it; ``changes`` replace fields."""

    def __init__(self, array: np.ndarray[Any, Any], **changes: Any) -> None:
        self.array = array
        fields = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            "stream": None,
        }
        fields.update(changes)
        self.__cuda_array_interface__ = {k: v for k, v in fields.items() if v is not ...}


class Dlpack:
    """NumPy's own DLPack capsule, said to be of another device."""

    def __init__(
        self, array: np.ndarray[Any, Any], device: tuple[int, int] = (2, 0), **options: Any
    ) -> None:
        self.array, self.device, self.options = array, device, options
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: int | None = None) -> object:
        self.streams.append(stream)
        return self.array.__dlpack__(**self.options)


FRAME = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def test_interface_is_read_without_a_copy() -> None:
    array, owner = view_device_array(Interface(FRAME))
    assert array == DeviceArray(FRAME.ctypes.data, (6, 8, 3), "uint8", 0)
    assert isinstance(owner, Interface)
    assert is_device_array(owner)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_older_interfaces_lack_the_newer_fields(version: int) -> None:
    source = Interface(FRAME, version=version, stream=..., strides=...)
    assert view_device_array(source)[0].pointer == FRAME.ctypes.data


@pytest.mark.parametrize(
    ("given", "stream"), [(None, 0), (1, 1), (2, 2), (0x7F00_1234, 0x7F00_1234)]
)
def test_stream_of_the_producer_is_kept(given: int | None, stream: int) -> None:
    assert view_device_array(Interface(FRAME, stream=given))[0].stream == stream


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stream": 0}, "names stream 0, which the protocol forbids"),
        ({"data": (0, False)}, "address is null"),
        ({"data": ...}, "__cuda_array_interface__ is damaged"),
        ({"typestr": "nonsense"}, "__cuda_array_interface__ is damaged"),
        ({"mask": object()}, "has a mask"),
        ({"typestr": ">u2"}, "other byte order"),
    ],
)
def test_unusable_interfaces_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(FrameMismatch, match=told):
        view_device_array(Interface(FRAME, **changes))


def test_gaps_between_rows_are_refused_and_explicit_dense_strides_are_not() -> None:
    with pytest.raises(FrameMismatch, match=r"has strides .* make it contiguous on the device"):
        view_device_array(Interface(FRAME[:, :4]))
    with pytest.raises(FrameMismatch, match="has strides"):
        view_device_array(Interface(FRAME.transpose(1, 0, 2)))
    dense = view_device_array(Interface(FRAME, strides=FRAME.strides))[0]
    assert dense.shape == (6, 8, 3)
    single = np.broadcast_to(FRAME[None], (1, 6, 8, 3))
    assert view_device_array(Interface(single, strides=(0, 24, 3, 1)))[0].shape == (1, 6, 8, 3)


@pytest.mark.parametrize("device", [2, 13])
def test_dlpack_is_read_without_a_copy(device: int) -> None:
    source = Dlpack(FRAME, (device, 0))
    array, capsule = view_device_array(source, consumer=0x55)
    assert array == DeviceArray(FRAME.ctypes.data, (6, 8, 3), "uint8", 0)
    assert source.streams == [0x55], "the producer orders its work before the consumer's"
    assert "dltensor" in repr(capsule)


def test_dlpack_without_a_consumer_is_ordered_on_the_default_stream() -> None:
    source = Dlpack(FRAME)
    assert view_device_array(source)[0].stream == 1
    assert source.streams == [1]


def test_dlpack_of_version_1_is_read() -> None:
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("this NumPy gives DLPack 0.x only")
    array, capsule = view_device_array(Dlpack(FRAME, max_version=(1, 0)), consumer=5)
    assert "dltensor_versioned" in repr(capsule)
    assert (array.pointer, array.shape) == (FRAME.ctypes.data, FRAME.shape)


def test_dlpack_offset_dtype_and_strides_are_respected() -> None:
    wide = np.zeros((5, 4), np.float32)
    array = view_device_array(Dlpack(wide[2:]), consumer=5)[0]
    assert array == DeviceArray(wide[2:].ctypes.data, (3, 4), "float32", 0)
    with pytest.raises(FrameMismatch, match="has strides"):
        view_device_array(Dlpack(FRAME[:, ::2]), consumer=5)


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ((1, 0), "lies on the CPU, expected a CUDA device"),
        ((3, 0), "page-locked host memory"),
        ((10, 0), "a ROCm device"),
        ((99, 0), "DLPack's type 99"),
        ((2, 1), "on CUDA device 1, the model on device 0"),
    ],
)
def test_other_devices_are_refused(device: tuple[int, int], told: str) -> None:
    with pytest.raises(FrameMismatch, match=told):
        view_device_array(Dlpack(FRAME, device), consumer=5)


def test_numpy_and_others_are_told_apart() -> None:
    with pytest.raises(FrameMismatch, match="lies on the CPU"):
        view_device_array(FRAME)
    with pytest.raises(FrameMismatch, match="list has neither __cuda_array_interface__ nor"):
        view_device_array([1, 2])


def test_our_arrays_speak_the_protocol_themselves() -> None:
    ours = DeviceArray(0x7000, (4, 6), "uint8", 0x99)
    assert view_device_array(ours)[0] == ours
    assert ours.__cuda_array_interface__["version"] == 3
    ready = DeviceArray(0x7000, (4, 6), "uint8")
    assert ready.__cuda_array_interface__["stream"] is None

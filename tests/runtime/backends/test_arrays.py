"""Reading where other libraries' arrays lie: real protocols, NumPy's memory behind them."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from streamseg.errors import FrameMismatch
from streamseg.runtime.backends.arrays import (
    is_device_array,
    keeps_stream,
    stream_handle,
    view_device_array,
)
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.backends.dlpack import export_capsule


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
    frame = view_device_array(Interface(FRAME))
    assert frame.array == DeviceArray(FRAME.ctypes.data, (6, 8, 3), "uint8", 0)
    assert isinstance(frame.owner, Interface)
    assert is_device_array(frame.owner)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_older_interfaces_lack_the_newer_fields(version: int) -> None:
    source = Interface(FRAME, version=version, stream=..., strides=...)
    frame = view_device_array(source)
    assert frame.array.pointer == FRAME.ctypes.data
    assert frame.known == (version == 3), "older ones name no stream: nothing is known of its work"
    assert view_device_array(source, stream=7).known, "the caller says which stream"


@pytest.mark.parametrize(
    ("given", "stream"), [(None, 0), (1, 1), (2, 2), (0x7F00_1234, 0x7F00_1234)]
)
def test_stream_of_the_producer_is_kept(given: int | None, stream: int) -> None:
    frame = view_device_array(Interface(FRAME, stream=given))
    assert (frame.array.stream, frame.after) == (stream, stream)
    assert frame.before == stream or (stream == 0 and frame.before == 1)
    asked = view_device_array(Interface(FRAME, stream=given), stream=0x77)
    assert (asked.after, asked.before) == (0x77, 0x77), "the caller's stream comes first"


class TorchStream:
    cuda_stream = 0


class CupyStream:
    ptr = 0x55


class PycudaStream:
    handle = 0x66


class NumbaStream:
    handle = ctypes.c_void_p(0x88)


def test_streams_of_other_libraries_are_numbers() -> None:
    assert stream_handle(TorchStream()) == 1, "torch calls the default stream 0"
    assert [stream_handle(s) for s in (CupyStream(), PycudaStream(), NumbaStream(), 0x99)] == [
        0x55,
        0x66,
        0x88,
        0x99,
    ]
    with pytest.raises(FrameMismatch, match="stream is str, expected a CUDA stream"):
        stream_handle("default")


class Both(Interface):
    """torch's tensors: an interface of version 2 that names no stream, and DLPack."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        super().__init__(array, version=2, stream=...)
        self.dlpack = Dlpack(array)
        self.__dlpack_device__ = self.dlpack.__dlpack_device__
        self.__dlpack__ = self.dlpack.__dlpack__


def test_dlpack_is_preferred_since_it_orders_the_producers_work() -> None:
    source = Both(FRAME)
    frame = view_device_array(source, consumer=0x55)
    assert source.dlpack.streams == [0x55]
    assert frame.known
    assert (frame.after, frame.before) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stream": 0}, "names stream 0, which the protocol forbids"),
        ({"data": (0, False)}, "address is null"),
        ({"data": ...}, "__cuda_array_interface__ is damaged"),
        ({"typestr": "nonsense"}, "__cuda_array_interface__ is damaged"),
        ({"mask": object()}, "has a mask"),
        ({"typestr": ">u2"}, "other byte order"),
    ],
)
def test_unusable_interfaces_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FrameMismatch, match=message):
        view_device_array(Interface(FRAME, **changes))


def test_gaps_between_rows_are_refused_and_explicit_dense_strides_are_not() -> None:
    with pytest.raises(FrameMismatch, match=r"has strides .* make it contiguous on the device"):
        view_device_array(Interface(FRAME[:, :4]))
    with pytest.raises(FrameMismatch, match="has strides"):
        view_device_array(Interface(FRAME.transpose(1, 0, 2)))
    dense = view_device_array(Interface(FRAME, strides=FRAME.strides)).array
    assert dense.shape == (6, 8, 3)
    single = np.broadcast_to(FRAME[None], (1, 6, 8, 3))
    assert view_device_array(Interface(single, strides=(0, 24, 3, 1))).array.shape == (1, 6, 8, 3)


@pytest.mark.parametrize("device", [2, 13])
def test_dlpack_is_read_without_a_copy(device: int) -> None:
    source = Dlpack(FRAME, (device, 0))
    frame = view_device_array(source, consumer=0x55)
    assert frame.array == DeviceArray(FRAME.ctypes.data, (6, 8, 3), "uint8", 0)
    assert source.streams == [0x55], "the producer orders its work before the consumer's"
    assert "dltensor" in repr(frame.owner)


def test_dlpack_without_a_consumer_is_ordered_on_the_default_stream() -> None:
    source = Dlpack(FRAME)
    assert view_device_array(source).after == 1
    assert source.streams == [1]


def test_dlpack_of_version_1_is_read() -> None:
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("this NumPy gives DLPack 0.x only")
    frame = view_device_array(Dlpack(FRAME, max_version=(1, 0)), consumer=5)
    assert "dltensor_versioned" in repr(frame.owner)
    assert (frame.array.pointer, frame.array.shape) == (FRAME.ctypes.data, FRAME.shape)


def test_dlpack_offset_dtype_and_strides_are_respected() -> None:
    wide = np.zeros((5, 4), np.float32)
    array = view_device_array(Dlpack(wide[2:]), consumer=5).array
    assert array == DeviceArray(wide[2:].ctypes.data, (3, 4), "float32", 0)
    with pytest.raises(FrameMismatch, match="has strides"):
        view_device_array(Dlpack(FRAME[:, ::2]), consumer=5)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ((1, 0), "is on the CPU, expected a CUDA device"),
        ((3, 0), "page-locked host memory"),
        ((10, 0), "a ROCm device"),
        ((99, 0), "DLPack's type 99"),
        ((2, 1), "on CUDA device 1, the model on device 0"),
    ],
)
def test_other_devices_are_refused(device: tuple[int, int], message: str) -> None:
    with pytest.raises(FrameMismatch, match=message):
        view_device_array(Dlpack(FRAME, device), consumer=5)


def test_numpy_and_other_arrays_are_distinguished() -> None:
    with pytest.raises(FrameMismatch, match="is on the CPU"):
        view_device_array(FRAME)
    with pytest.raises(FrameMismatch, match="list has neither __dlpack__ nor __cuda"):
        view_device_array([1, 2])


def test_our_arrays_support_the_protocols() -> None:
    asked: list[int] = []
    ours = DeviceArray(0x7000, (4, 6), "uint8", 0x99, asked.append)
    frame = view_device_array(ours, consumer=0x55)
    assert frame.array == DeviceArray(0x7000, (4, 6), "uint8")
    assert asked == [0x55], "the consumer's stream waits for the content"
    for stream in (None, 1, 2, -1):
        ours.__dlpack__(stream=stream)
    assert asked[1:] == [1, 1, 2, 0], "-1 asks for no order; its reader is not known"
    for wrong in ({"stream": 0}, {"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError):
            ours.__dlpack__(**wrong)  # type: ignore[arg-type]
    assert ours.__cuda_array_interface__["version"] == 3
    assert ours.__cuda_array_interface__["stream"] == 0x99
    ready = DeviceArray(0x7000, (4, 6), "uint8")
    assert ready.__cuda_array_interface__["stream"] is None


def test_the_owner_lives_as_long_as_the_capsule_and_no_longer() -> None:
    class Owner:
        pass

    owner = Owner()
    watch = weakref.ref(owner)
    capsule = export_capsule(0x7000, (4, 6), "uint8", device=0, owner=owner)
    del owner
    assert watch() is not None
    del capsule
    gc.collect()
    assert watch() is None


def test_only_a_stream_object_keeps_its_stream() -> None:
    class Stream:
        ptr = 0x99

    class ExternalStream(Stream):
        """As CuPy's and torch's: the stream is somebody else's."""

    assert keeps_stream(Stream())
    for handle in (None, 0x99, np.int64(0x99), ctypes.c_void_p(0x99), ExternalStream()):
        assert not keeps_stream(handle)

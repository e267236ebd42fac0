"""The CUDA operators on device memory, through the C interface of ``libstreamseg_cuda``.

Arguments are addresses of dense device arrays; every call puts its work on a stream and returns.
Glossary and geometry as in ``streamseg.plugins.native``. Maps are float32, or float16 with
``half=True``; weights and state are float32.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import BackendError
from streamseg.plugins.loader import find_cuda_library
from streamseg.plugins.table import GEOMETRY


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in (*GEOMETRY, "batch", "channels", "depth"))


_SIZES, _INT, _INT64 = ctypes.POINTER(_Sizes), ctypes.c_int, ctypes.c_int64
_ARRAY, _STREAM = ctypes.c_void_p, ctypes.c_void_p
_SIGNATURES: dict[str, list[object]] = {
    "windowed_causal_conv": [_SIZES, _INT, *[_ARRAY] * 6, _STREAM],
    "windowed_selective_scan": [_SIZES, _INT, *[_ARRAY] * 11, _STREAM],
    "upsample_argmax": [_ARRAY, _INT, *[_INT64] * 6, _INT, _ARRAY, _STREAM],
    "find_nonfinite": [_ARRAY, _INT, _INT64, _ARRAY, _STREAM],
    "normalise": [_ARRAY, *[_INT64] * 3, _ARRAY, _ARRAY, _INT, _ARRAY, _STREAM],
}


@dataclass(frozen=True)
class CallSizes:
    """Sizes of one call: six integers of geometry, batch, channels, and taps or states."""

    geometry: Sequence[int]
    batch: int
    channels: int
    depth: int

    def _struct(self) -> _Sizes:
        return _Sizes(*self.geometry, self.batch, self.channels, self.depth)


@functools.cache
def load_cuda(path: str | Path | None = None) -> DeviceOps:
    """The operators of the library that ``find_cuda_library`` finds; loaded once.

    Raises:
        PluginNotFound: see ``find_cuda_library``.
    """
    return DeviceOps(find_cuda_library(path))


class DeviceOps:
    """The library's operators. Errors of the library and of CUDA arrive as ``BackendError``."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._c = ctypes.CDLL(str(library))
        for name in ("version", "last_error", "targets"):
            getattr(self._c, f"streamseg_cuda_{name}").restype = ctypes.c_char_p
        for name, types in _SIGNATURES.items():
            getattr(self._c, f"streamseg_cuda_{name}").argtypes = types

    @property
    def version(self) -> str:
        """Version of the package that the library was built with."""
        return str(self._c.streamseg_cuda_version().decode())

    @property
    def targets(self) -> str:
        """Compute capabilities that the library was built for, such as ``80,87+ptx87``."""
        return str(self._c.streamseg_cuda_targets().decode())

    def causal_conv(
        self,
        sizes: CallSizes,
        *,
        x: int,
        weight: int,
        bias: int,
        state: int,
        y: int,
        next_state: int,
        half: bool = False,
        stream: int = 0,
    ) -> None:
        """Causal depthwise convolution within each cell, bias and SiLU; see ``NativeOps``."""
        arrays = (x, weight, bias, state, y, next_state)
        self._call("windowed_causal_conv", ctypes.byref(sizes._struct()), half, *arrays, stream)

    def selective_scan(
        self,
        sizes: CallSizes,
        *,
        u: int,
        dt: int,
        dt_bias: int,
        A: int,  # noqa: N803
        B: int,  # noqa: N803
        C: int,  # noqa: N803
        skip: int,
        z: int,
        state: int,
        y: int,
        next_state: int,
        half: bool = False,
        stream: int = 0,
    ) -> None:
        """Softplus, scan and gate; see ``NativeOps``."""
        arrays = (u, dt, dt_bias, A, B, C, skip, z, state, y, next_state)
        self._call("windowed_selective_scan", ctypes.byref(sizes._struct()), half, *arrays, stream)

    def upsample_argmax(
        self,
        scores: int,
        labels: int,
        *,
        shape: Sequence[int],
        size: tuple[int, int],
        half: bool = False,
        wide: bool = False,
        stream: int = 0,
    ) -> None:
        """Labels ``[batch, *size]`` of scores of ``shape`` ``[batch, K, h, w]``.

        They are uint8, or int32 with ``wide``.
        """
        self._call("upsample_argmax", scores, half, *shape, *size, wide, labels, stream)

    def normalise(
        self,
        frame: int,
        out: int,
        *,
        shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        half: bool = False,
        stream: int = 0,
    ) -> None:
        """(frame - mean) / std: uint8 ``shape`` ``[batch, H, W, 3]`` to ``[batch, 3, H, W]``."""
        triple = ctypes.c_float * 3
        self._call("normalise", frame, *shape[:3], triple(*mean), triple(*std), half, out, stream)

    def find_nonfinite(
        self, values: int, flag: int, *, count: int, half: bool = False, stream: int = 0
    ) -> None:
        """Set the int32 ``flag`` to 1 where one of ``count`` values is NaN or infinite."""
        self._call("find_nonfinite", values, half, count, flag, stream)

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._c, f"streamseg_cuda_{name}")
        if function(*arguments) != 0:
            raise BackendError(f"{name}: {self._c.streamseg_cuda_last_error().decode()}")

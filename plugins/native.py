"""The native operators on NumPy arrays, through the library's C interface.

Glossary: ``M`` tokens of the map in raster order, ``D`` channels, ``N`` states, ``K`` taps. A
geometry is six integers: map_h, map_w, window_h, window_w, offset_h, offset_w. Arrays are float32,
or float64 for checking (plain C++, slow); ``threads`` counts the caller, 0 takes every core.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError
from streamseg.plugins.loader import find_library

Array = npt.NDArray[Any]
_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}


class _Sizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("map_h", "map_w", "window_h", "window_w", "offset_h", "offset_w"),
            *("batch", "channels", "depth", "threads"),
        )
    )


@functools.cache
def load(path: str | Path | None = None) -> NativeOps:
    """The operators of the library that ``find_library`` finds; loaded once.

    Raises:
        PluginNotFound: see ``find_library``.
    """
    return NativeOps(find_library(path))


class NativeOps:
    """The library's operators. Errors of the library arrive as ``BackendError``."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._c = ctypes.CDLL(str(library))
        for name in ("version", "last_error", "levels", "level"):
            getattr(self._c, f"streamseg_{name}").restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        """Version of the package that the library was built with."""
        return str(self._c.streamseg_version().decode())

    @property
    def levels(self) -> tuple[str, ...]:
        """Instruction sets that this processor has, widest last."""
        return tuple(self._c.streamseg_levels().decode().split(","))

    @property
    def level(self) -> str:
        """Instruction set in use."""
        return str(self._c.streamseg_level().decode())

    def select_level(self, name: str | None) -> None:
        """Use this instruction set from now on, in the whole process; None for the widest.

        Raises:
            BackendError: the processor does not have it.
        """
        self._call("streamseg_select_level", (name or "").encode())

    def count_cells(self, geometry: Sequence[int]) -> int:
        """Number of cells of a window grid."""
        cells = ctypes.c_int64()
        sizes = _sizes(geometry, 1, 1, 1, 1)
        self._call("streamseg_cells", ctypes.byref(sizes), ctypes.byref(cells))
        return cells.value

    def causal_conv(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        state: Array,
        *,
        geometry: Sequence[int],
        threads: int = 0,
    ) -> tuple[Array, Array]:
        """Causal depthwise convolution within each cell, bias and SiLU.

        Args:
            x: ``[batch, M, D]``.
            weight: ``[D, K]``, oldest tap first.
            bias: ``[D]``.
            state: ``[batch, cells, D, K-1]``, oldest first; not modified.
            geometry: the six integers.
            threads: how many.
        Returns:
            y like x, next state like ``state``.
        """
        inputs = _dense(x, weight, bias, state)
        sizes = self._conv_sizes(inputs, geometry, threads)
        outputs = (np.empty_like(inputs[0]), np.empty_like(inputs[3]))
        self._run("windowed_causal_conv", sizes, inputs, outputs)
        return outputs

    def causal_conv_backward(
        self,
        inputs: Sequence[Array],
        grad_y: Array,
        grad_next_state: Array | None,
        *,
        geometry: Sequence[int],
        threads: int = 0,
    ) -> tuple[Array, ...]:
        """Gradients of ``causal_conv`` with respect to its four inputs, in their order."""
        dense = _dense(*inputs)
        sizes = self._conv_sizes(dense, geometry, threads)
        gradients = _gradients(dense[0], grad_y, dense[3], grad_next_state)
        outputs = tuple(np.empty_like(array) for array in dense)
        self._run("windowed_causal_conv_backward", sizes, (*dense, *gradients), outputs)
        return outputs

    def selective_scan(
        self, *inputs: Array, geometry: Sequence[int], threads: int = 0
    ) -> tuple[Array, Array]:
        """Advance the windowed selective scan by one frame.

        Args:
            inputs: u ``[batch, M, D]``, dt ``[batch, M, D]`` before bias and softplus, dt_bias
                ``[D]``, A ``[D, N]`` at most 0, B ``[batch, M, N]``, C ``[batch, M, N]``, skip
                ``[D]``, z ``[batch, M, D]`` before SiLU, state ``[batch, cells, D, N]``; none is
                modified.
            geometry: the six integers.
            threads: how many.
        Returns:
            y like u, next state like ``state``.
        """
        dense = _dense(*inputs)
        sizes = self._scan_sizes(dense, geometry, threads)
        outputs = (np.empty_like(dense[0]), np.empty_like(dense[8]))
        self._run("windowed_selective_scan", sizes, dense, outputs)
        return outputs

    def selective_scan_backward(
        self,
        inputs: Sequence[Array],
        grad_y: Array,
        grad_next_state: Array | None,
        *,
        geometry: Sequence[int],
        threads: int = 0,
    ) -> tuple[Array, ...]:
        """Gradients of ``selective_scan`` with respect to its nine inputs, in their order."""
        dense = _dense(*inputs)
        sizes = self._scan_sizes(dense, geometry, threads)
        gradients = _gradients(dense[0], grad_y, dense[8], grad_next_state)
        outputs = tuple(np.empty_like(array) for array in dense)
        self._run("windowed_selective_scan_backward", sizes, (*dense, *gradients), outputs)
        return outputs

    def upsample_argmax(
        self, scores: Array, height: int, width: int, *, threads: int = 0
    ) -> npt.NDArray[np.uint8]:
        """Class of every pixel: bilinear upsampling (half-pixel), then the largest score.

        Args:
            scores: ``[batch, K, h, w]`` float32, K at most 255.
            height: rows of the label map.
            width: columns of the label map.
            threads: how many.
        Returns:
            labels ``[batch, height, width]``; the lowest class wins a tie.
        """
        if scores.ndim != 4 or scores.dtype != np.float32:
            raise BackendError(
                f"scores are {scores.dtype} of shape {scores.shape}, expected float32 "
                "[batch, classes, height, width]"
            )
        dense = np.ascontiguousarray(scores)
        labels = np.empty((dense.shape[0], max(height, 0), max(width, 0)), np.uint8)
        numbers = (*dense.shape, height, width, threads)
        self._call(
            "streamseg_upsample_argmax",
            _pointer(dense),
            *(ctypes.c_int64(number) for number in numbers),
            _pointer(labels),
        )
        return labels

    def exp(self, x: Array, *, base2: bool = False) -> Array:
        """The kernels' own exponential, or power of two, of float32 numbers. For tests."""
        dense = np.ascontiguousarray(x, np.float32)
        out = np.empty_like(dense)
        self._call(
            "streamseg_exp", _pointer(dense), ctypes.c_int64(dense.size), int(base2), _pointer(out)
        )
        return out

    def measure_floor(self, numbers: int, *, kind: int) -> float:
        """Milliseconds of one thread for the arithmetic of ``numbers`` states, from registers.

        Kind 0: exponentials alone; 1: products and sums alone; 2: both, as the scan does them.
        """
        milliseconds = ctypes.c_double()
        self._call("streamseg_floor", ctypes.c_int64(numbers), kind, ctypes.byref(milliseconds))
        return milliseconds.value

    def _conv_sizes(
        self, inputs: tuple[Array, ...], geometry: Sequence[int], threads: int
    ) -> _Sizes:
        x, weight, bias, state = inputs
        batch, _, channels = _shape(x, "x", (None, geometry[0] * geometry[1], None))
        taps = _shape(weight, "weight", (channels, None))[1]
        cells = self.count_cells(geometry)
        _shape(bias, "bias", (channels,))
        _shape(state, "state", (batch, cells, channels, taps - 1))
        return _sizes(geometry, batch, channels, taps, threads)

    def _scan_sizes(
        self, inputs: tuple[Array, ...], geometry: Sequence[int], threads: int
    ) -> _Sizes:
        u, dt, dt_bias, A, B, C, skip, z, state = inputs  # noqa: N806
        batch, tokens, channels = _shape(u, "u", (None, geometry[0] * geometry[1], None))
        states = _shape(A, "A", (channels, None))[1]
        cells = self.count_cells(geometry)
        for name, array in (("dt", dt), ("z", z)):
            _shape(array, name, (batch, tokens, channels))
        for name, array in (("B", B), ("C", C)):
            _shape(array, name, (batch, tokens, states))
        for name, array in (("dt_bias", dt_bias), ("skip", skip)):
            _shape(array, name, (channels,))
        _shape(state, "state", (batch, cells, channels, states))
        return _sizes(geometry, batch, channels, states, threads)

    def _run(
        self,
        name: str,
        sizes: _Sizes,
        inputs: Sequence[Array | None],
        outputs: Sequence[Array],
    ) -> None:
        suffix = _SUFFIX[outputs[0].dtype]
        pointers = (_pointer(array) for array in (*inputs, *outputs))
        self._call(f"streamseg_{name}_{suffix}", ctypes.byref(sizes), *pointers)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._c, name)(*arguments) != 0:
            raise BackendError(f"{name}: {self._c.streamseg_last_error().decode()}")


def _pointer(array: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _dense(*arrays: Array) -> tuple[Array, ...]:
    """The arrays without gaps, all of one of the two element types."""
    kinds = {array.dtype for array in arrays}
    if len(kinds) != 1 or not kinds <= set(_SUFFIX):
        names = ", ".join(sorted(str(kind) for kind in kinds))
        raise BackendError(f"arrays are {names}, expected all float32 or all float64")
    return tuple(np.ascontiguousarray(array) for array in arrays)


def _gradients(
    y: Array, grad_y: Array, state: Array, grad_next_state: Array | None
) -> tuple[Array, Array | None]:
    _shape(grad_y, "gradient of y", y.shape)
    if grad_next_state is None:
        return _dense(y, grad_y)[1], None
    _shape(grad_next_state, "gradient of the next state", state.shape)
    return _dense(y, grad_y)[1], _dense(state, grad_next_state)[1]


def _shape(array: Array, name: str, expected: tuple[int | None, ...]) -> tuple[int, ...]:
    fits = array.ndim == len(expected) and all(
        want is None or want == got for want, got in zip(expected, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("?" if want is None else str(want) for want in expected)
        raise BackendError(f"{name} has shape {list(array.shape)}, expected [{wanted}]")
    return array.shape


def _sizes(geometry: Sequence[int], batch: int, channels: int, depth: int, threads: int) -> _Sizes:
    if len(geometry) != 6:
        raise BackendError(f"geometry has {len(geometry)} numbers, expected 6")
    return _Sizes(*geometry, batch, channels, depth, threads)

"""The native operators on NumPy arrays, through the library's C interface.

Glossary: ``M`` tokens of the map in raster order, ``D`` channels, ``N`` states, ``K`` taps. A
geometry is six integers: map_h, map_w, window_h, window_w, offset_h, offset_w. Arrays are float32,
or float64 for checking (plain C++, slow); ``threads`` counts the caller, 0 takes every core.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError, PluginNotFound
from streamseg.plugins.loader import find_library
from streamseg.plugins.table import (
    ATTENTION,
    CAUSAL_CONV,
    GEOMETRY,
    MAMBA_LAYER,
    PRECISIONS,
    SELECTIVE_SCAN,
    UPSAMPLE_ARGMAX,
    Operator,
    Sizes,
)

Array = npt.NDArray[Any]
_WEIGHTS = MAMBA_LAYER.positions("weight")
_LAYER_AXES = ("features", "channels", "taps", "states", "rank")
_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}


class _Sizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in (*GEOMETRY, "batch", "channels", "depth", "threads")
    )


@functools.cache
def load(path: str | Path | None = None) -> NativeOps:
    """The operators of the library that ``find_library`` finds; loaded once.

    Raises:
        PluginNotFound: see ``find_library``; or the library is another streamseg's.
    """
    return NativeOps(find_library(path))


class _LayerSizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in _LAYER_AXES)


class _LayerWeights(ctypes.Structure):
    _fields_ = tuple((MAMBA_LAYER.input_names[i], ctypes.c_void_p) for i in _WEIGHTS)


class _AttentionSizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("batch", "heads", "queries", "keys", "features", "threads")
    )


class NativeOps:
    """The library's operators. Errors of the library arrive as ``BackendError``."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._c = ctypes.CDLL(str(library))
        try:
            for name in ("version", "last_error", "levels", "level", "rejected_level"):
                getattr(self._c, f"streamseg_{name}").restype = ctypes.c_char_p
        except AttributeError as error:
            raise PluginNotFound(
                f"{library} belongs to another streamseg ({error}). Build it again by make native, "
                "or install streamseg again"
            ) from None

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
        """Instruction set in use.

        Raises:
            BackendError: the processor does not have the one that STREAMSEG_CPU_LEVEL names.
        """
        name = str(self._c.streamseg_level().decode())
        if not name:
            raise BackendError(self._c.streamseg_last_error().decode())
        return name

    @property
    def rejected_level(self) -> str:
        """An instruction set that this processor has but that is not used, and why; or empty.

        The operating system does not permit it, or its products are wrong.
        """
        return str(self._c.streamseg_rejected_level().decode())

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
        sizes = self._check(CAUSAL_CONV, inputs, geometry, threads)
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
        sizes = self._check(CAUSAL_CONV, dense, geometry, threads)
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
                ``[D]``, z ``[batch, M, D]`` before SiLU, state ``[batch, cells, D, N]``; not
                modified.
            geometry: the six integers.
            threads: how many.
        Returns:
            y like u, next state like ``state``.
        """
        dense = _dense(*inputs)
        sizes = self._check(SELECTIVE_SCAN, dense, geometry, threads)
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
        sizes = self._check(SELECTIVE_SCAN, dense, geometry, threads)
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
        if scores.dtype != np.float32:
            raise BackendError(f"scores are {scores.dtype}, expected float32")
        Sizes(UPSAMPLE_ARGMAX).take([scores.shape])
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

    def multi_head_attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        heads: int,
        precision: str = "fp32",
        threads: int = 0,
    ) -> Array:
        """``softmax(q k^T / sqrt(features / heads)) v`` of every head.

        Args:
            q: ``[batch, queries, features]`` float32, heads one after the other.
            k: ``[batch, keys, features]`` float32.
            v: ``[batch, keys, features]`` float32.
            heads: divides features.
            precision: of the products: ``fp32``, ``bf16`` or ``int8``.
            threads: how many.
        Returns:
            y like q.
        """
        number = _precision(precision)
        inputs = _float32(q, k, v)
        sizes = Sizes(ATTENTION)
        sizes.take([array.shape for array in inputs])
        axes = (sizes[name] for name in ("queries", "keys", "features"))
        y = np.empty_like(inputs[0])
        self._call(
            "streamseg_multi_head_attention",
            ctypes.byref(_AttentionSizes(sizes["batch"], heads, *axes, threads)),
            number,
            *map(_pointer, (*inputs, y)),
        )
        return y

    def pack_layer(self, *weights: Array, precision: str = "fp32") -> NativeLayer:
        """Copy the weights of one Mamba layer and pack them for the instruction set in use.

        Args:
            weights: the operator's weights in the table's order, float32; products are stored
                ``[inputs, outputs]``.
            precision: of the products: ``fp32``, ``bf16`` or ``int8`` (a scale for every token).
        Raises:
            BackendError: shapes do not fit each other, a type or precision is unknown, or A > 0.
        """
        number = _precision(precision)
        dense = _float32(*weights)
        operator = Operator(
            MAMBA_LAYER.name, (), tuple(MAMBA_LAYER.inputs[i] for i in _WEIGHTS), ()
        )
        sizes = Sizes(operator)
        sizes.take([array.shape for array in dense])
        layer = ctypes.c_void_p()
        self._call(
            "streamseg_layer_create",
            ctypes.byref(_LayerSizes(*(sizes[name] for name in _LAYER_AXES))),
            ctypes.byref(_LayerWeights(*(array.ctypes.data for array in dense))),
            number,
            ctypes.byref(layer),
        )
        return NativeLayer(self, layer, sizes)

    def _check(
        self, operator: Operator, inputs: tuple[Array, ...], geometry: Sequence[int], threads: int
    ) -> _Sizes:
        cells = self.count_cells(geometry)
        sizes = Sizes(operator, tokens=geometry[0] * geometry[1], cells=cells)
        sizes.take([array.shape for array in inputs])
        depth = sizes["taps" if operator is CAUSAL_CONV else "states"]
        return _sizes(geometry, sizes["batch"], sizes["channels"], depth, threads)

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


class NativeLayer:
    """A packed layer; made by ``NativeOps.pack_layer``."""

    def __init__(self, ops: NativeOps, layer: ctypes.c_void_p, weights: Sizes) -> None:
        self._ops, self._layer, self._weights = ops, layer, weights
        weakref.finalize(self, ops._c.streamseg_layer_destroy, layer)

    def run(
        self,
        x: Array,
        conv_state: Array,
        scan_state: Array,
        *,
        geometry: Sequence[int],
        threads: int = 0,
    ) -> tuple[Array, Array, Array]:
        """Advance the layer by one frame.

        Args:
            x: ``[batch, M, features]`` float32.
            conv_state: ``[batch, cells, D, K-1]`` float32; not modified.
            scan_state: ``[batch, cells, D, N]`` float32; not modified.
            geometry: the six integers.
            threads: how many.
        Returns:
            x plus the layer's output, and both states after the frame.
        """
        inputs = _float32(x, conv_state, scan_state)
        known = {name: self._weights[name] for name in _LAYER_AXES}
        known |= {"tokens": geometry[0] * geometry[1], "cells": self._ops.count_cells(geometry)}
        operands = tuple(MAMBA_LAYER.inputs[i] for i in (0, -2, -1))
        sizes = Sizes(Operator(MAMBA_LAYER.name, (), operands, ()), **known)
        sizes.take([array.shape for array in inputs])
        outputs = (np.empty_like(inputs[0]), np.empty_like(inputs[1]), np.empty_like(inputs[2]))
        c_sizes = _sizes(geometry, sizes["batch"], 1, 1, threads)
        pointers = (_pointer(array) for array in (*inputs, *outputs))
        self._ops._call(
            "streamseg_windowed_mamba_layer", self._layer, ctypes.byref(c_sizes), *pointers
        )
        return outputs


def _pointer(array: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _dense(*arrays: Array) -> tuple[Array, ...]:
    """The arrays without gaps, all of one of the two element types."""
    kinds = {array.dtype for array in arrays}
    if len(kinds) != 1 or not kinds <= set(_SUFFIX):
        names = ", ".join(sorted(str(kind) for kind in kinds))
        raise BackendError(f"arrays are {names}, expected all float32 or all float64")
    return tuple(np.ascontiguousarray(array) for array in arrays)


def _float32(*arrays: Array) -> tuple[Array, ...]:
    dense = _dense(*arrays)
    if dense[0].dtype != np.float32:
        raise BackendError(f"arrays are {dense[0].dtype}, expected float32")
    return dense


def _precision(name: str) -> int:
    if name not in PRECISIONS:
        raise BackendError(f"precision is '{name}', expected one of: {', '.join(PRECISIONS)}")
    return PRECISIONS.index(name)


def _gradients(
    y: Array, grad_y: Array, state: Array, grad_next_state: Array | None
) -> tuple[Array, Array | None]:
    _match(grad_y, "gradient of y", y.shape)
    if grad_next_state is None:
        return _dense(y, grad_y)[1], None
    _match(grad_next_state, "gradient of the next state", state.shape)
    return _dense(y, grad_y)[1], _dense(state, grad_next_state)[1]


def _match(array: Array, name: str, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise BackendError(f"{name} has shape {list(array.shape)}, expected {list(expected)}")


def _sizes(geometry: Sequence[int], batch: int, channels: int, depth: int, threads: int) -> _Sizes:
    if len(geometry) != 6:
        raise BackendError(f"geometry has {len(geometry)} numbers, expected 6")
    return _Sizes(*geometry, batch, channels, depth, threads)

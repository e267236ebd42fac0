"""The operators' contract in Python: the mirror of ``plugins/src/ops.h``, which a test compares.

A map has the type of the graph's features, a weight and a state are float32, labels are integers,
and an index is int32 and read only by the lowering. Axes that are not sizes of their own follow:
``tokens`` and ``cells`` from the attributes, ``history`` is ``taps - 1`` and ``projections`` is
``rank + 2 states``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from streamseg.errors import BackendError

Role = Literal["map", "weight", "state", "labels"]
DOMAIN = "streamseg"
GEOMETRY = ("map_h", "map_w", "window_h", "window_w", "offset_h", "offset_w")
_EXTENT, _PIXELS, _FEATURES = 1 << 20, 32767, 1 << 14
_INT32 = (1 << 31) - 1

# Axis -> its name in messages, and the least and largest size.
LIMITS: Mapping[str, tuple[str, int, int]] = {
    "batch": ("batch", 1, 65535),
    "tokens": ("map_h * map_w", 1, _INT32),
    "cells": ("cells", 1, _INT32),
    "channels": ("channels", 1, _EXTENT),
    "taps": ("taps", 1, 16),
    "history": ("taps - 1", 0, 15),
    "states": ("states", 1, 64),
    "classes": ("classes", 1, 255),
    "rows": ("scores height", 1, _PIXELS),
    "columns": ("scores width", 1, _PIXELS),
    "height": ("height", 1, _PIXELS),
    "width": ("width", 1, _PIXELS),
    "features": ("features", 1, _FEATURES),
    "rank": ("rank", 1, _FEATURES),
    "projections": ("rank + 2 * states", 3, _FEATURES + 128),
    "queries": ("queries", 1, _INT32),
    "keys": ("keys", 1, _INT32),
}


@dataclass(frozen=True)
class Operand:
    """One input or output of an operator."""

    name: str
    role: Role
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Attribute:
    """An integer attribute and its range; an offset ends before its window as well."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Operator:
    """One operator of the domain; ``indices`` are the trailing inputs of its lowering."""

    name: str
    attributes: tuple[Attribute, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    indices: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs in order, without the indices."""
        return tuple(operand.name for operand in self.inputs)

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Attributes in order."""
        return tuple(attribute.name for attribute in self.attributes)

    def positions(self, role: Role) -> tuple[int, ...]:
        """Indices of the inputs that have this role."""
        return tuple(i for i, operand in enumerate(self.inputs) if operand.role == role)


_TOKENS = ("batch", "tokens", "channels")
_NARROW = ("batch", "tokens", "states")
_GEOMETRY = tuple(
    Attribute(name, 0 if name.startswith("offset") else 1, _EXTENT) for name in GEOMETRY
)


def _maps(axes: tuple[str, ...], *names: str) -> tuple[Operand, ...]:
    return tuple(Operand(name, "map", axes) for name in names)


CAUSAL_CONV = Operator(
    "WindowedCausalConv",
    _GEOMETRY,
    (
        Operand("x", "map", _TOKENS),
        Operand("weight", "weight", ("channels", "taps")),
        Operand("bias", "weight", ("channels",)),
        Operand("state", "state", ("batch", "cells", "channels", "history")),
    ),
    (
        Operand("y", "map", _TOKENS),
        Operand("next_state", "state", ("batch", "cells", "channels", "history")),
    ),
    ("order", "inverse", "tail"),
)
SELECTIVE_SCAN = Operator(
    "WindowedSelectiveScan",
    _GEOMETRY,
    (
        *_maps(_TOKENS, "u", "dt"),
        Operand("dt_bias", "weight", ("channels",)),
        Operand("A", "weight", ("channels", "states")),
        *_maps(_NARROW, "B", "C"),
        Operand("skip", "weight", ("channels",)),
        *_maps(_TOKENS, "z"),
        Operand("state", "state", ("batch", "cells", "channels", "states")),
    ),
    (
        Operand("y", "map", _TOKENS),
        Operand("next_state", "state", ("batch", "cells", "channels", "states")),
    ),
    ("order", "inverse"),
)
UPSAMPLE_ARGMAX = Operator(
    "UpsampleArgmax",
    (Attribute("height", 1, _PIXELS), Attribute("width", 1, _PIXELS)),
    (Operand("scores", "map", ("batch", "classes", "rows", "columns")),),
    (Operand("labels", "labels", ("batch", "height", "width")),),
)
PRECISIONS = ("fp32", "bf16", "int8")  # values of the attribute ``precision``
_MAP = ("batch", "tokens", "features")
_CONV_STATE = ("batch", "cells", "channels", "history")
_SCAN_STATE = ("batch", "cells", "channels", "states")
MAMBA_LAYER = Operator(
    "WindowedMambaLayer",
    (*_GEOMETRY, Attribute("precision", 0, len(PRECISIONS) - 1)),
    (
        Operand("x", "map", _MAP),
        Operand("norm", "weight", ("features",)),
        Operand("u_proj", "weight", ("features", "channels")),
        Operand("z_proj", "weight", ("features", "channels")),
        Operand("conv_weight", "weight", ("channels", "taps")),
        Operand("conv_bias", "weight", ("channels",)),
        Operand("dt_proj", "weight", ("rank", "channels")),
        Operand("dt_bias", "weight", ("channels",)),
        Operand("A", "weight", ("channels", "states")),
        Operand("x_proj", "weight", ("channels", "projections")),
        Operand("skip", "weight", ("channels",)),
        Operand("out_proj", "weight", ("channels", "features")),
        Operand("conv_state", "state", _CONV_STATE),
        Operand("scan_state", "state", _SCAN_STATE),
    ),
    (
        Operand("y", "map", _MAP),
        Operand("next_conv_state", "state", _CONV_STATE),
        Operand("next_scan_state", "state", _SCAN_STATE),
    ),
    ("order", "inverse", "tail"),
)
_QUERIES, _KEYS = ("batch", "queries", "features"), ("batch", "keys", "features")
ATTENTION = Operator(
    "MultiHeadAttention",
    (Attribute("heads", 1, _FEATURES), Attribute("precision", 0, len(PRECISIONS) - 1)),
    (Operand("q", "map", _QUERIES), *_maps(_KEYS, "k", "v")),
    (Operand("y", "map", _QUERIES),),
)
OPERATORS: Mapping[str, Operator] = {
    operator.name: operator
    for operator in (CAUSAL_CONV, SELECTIVE_SCAN, UPSAMPLE_ARGMAX, MAMBA_LAYER, ATTENTION)
}


class Sizes:
    """The sizes of one call, learned from shapes in the table's order and compared with it."""

    def __init__(self, operator: Operator, **known: int) -> None:
        self._operator = operator
        self._known = dict(known)

    def __getitem__(self, axis: str) -> int:
        size = self._get(axis)
        if size is None:
            raise KeyError(axis)
        return size

    def take(self, shapes: Sequence[Sequence[int]]) -> None:
        """Compare the shapes of all inputs with the table.

        Raises:
            BackendError: a shape does not fit; the message names the input, both shapes and axes.
        """
        for operand, shape in zip(self._operator.inputs, shapes, strict=True):
            wanted = [self._get(axis) for axis in operand.axes]
            fits = len(shape) == len(wanted) and all(
                want is None or want == got for want, got in zip(wanted, shape, strict=True)
            )
            if not fits:
                raise BackendError(_mismatch(operand, shape, wanted))
            self._known.update(
                (axis, got)
                for axis, got, want in zip(operand.axes, shape, wanted, strict=True)
                if want is None
            )

    def _get(self, axis: str) -> int | None:
        if axis == "history":
            taps = self._known.get("taps")
            return None if taps is None else taps - 1
        if axis == "projections":
            rank, states = self._known.get("rank"), self._known.get("states")
            return None if rank is None or states is None else rank + 2 * states
        return self._known.get(axis)


def _mismatch(operand: Operand, shape: Sequence[int], wanted: Sequence[int | None]) -> str:
    expected = ", ".join("?" if size is None else str(size) for size in wanted)
    axes = ", ".join(LIMITS[axis][0] for axis in operand.axes)
    return f"{operand.name} has shape {list(shape)}, expected [{expected}] ({axes})"

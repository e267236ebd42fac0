"""Conformance cases with the operators of the ``streamseg`` domain, worked out in NumPy.

Two temporal layers run on every second pixel, the second with shifted windows, and their scores
are enlarged to the frame. `nodes` computes them with the operators (each carries its lowering as a
function of the graph), `layers` with a whole layer as one operator, and `lowered` with standard
operators only. NumPy computes in float64, cell by cell and token by token, without the project's
references. Frames are drawn until no pixel is near a tie: every margin exceeds ``MARGIN``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamseg.export.fusion import fuse_layers
from streamseg.export.lowering import attach_lowering, lowered
from streamseg.runtime.bundle.manifest import GraphSpec, ScheduleRow
from streamseg.runtime.bundle.state import StateSpec
from tests.conformance.cases import HEIGHT, WIDTH, WITH_RESET, Case

ROWS, COLUMNS = HEIGHT // 2, WIDTH // 2
FEATURES, CHANNELS, STATES, RANK, TAPS, CLASSES = 5, 10, 6, 3, 4, 3
WINDOW, OFFSETS = 2, (0, 1)
MARGIN = 0.01  # between the best two scores of a pixel; they reach about 3
EPSILON = 1e-5
GEOMETRY = ("map_h", "map_w", "window_h", "window_w", "offset_h", "offset_w")

Values = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """Weights of one temporal layer, products as ``[inputs, outputs]``; A is negative."""

    norm: Float32
    u_proj: Float32
    z_proj: Float32
    conv_weight: Float32
    conv_bias: Float32
    x_proj: Float32
    dt_proj: Float32
    dt_bias: Float32
    A: Float32
    skip: Float32
    out_proj: Float32


def _draw_layer(rng: np.random.Generator) -> Layer:
    def normal(*shape: int, scale: float) -> Float32:
        return (rng.normal(0, scale, shape)).astype(np.float32)

    return Layer(
        norm=1 + normal(FEATURES, scale=0.1),
        u_proj=normal(FEATURES, CHANNELS, scale=0.7),
        z_proj=normal(FEATURES, CHANNELS, scale=0.7),
        conv_weight=normal(CHANNELS, TAPS, scale=0.6),
        conv_bias=normal(CHANNELS, scale=0.2),
        x_proj=normal(CHANNELS, RANK + 2 * STATES, scale=0.4),
        dt_proj=normal(RANK, CHANNELS, scale=0.5),
        dt_bias=normal(CHANNELS, scale=0.3) - 1,
        A=-np.exp(normal(CHANNELS, STATES, scale=0.5) - 1),
        skip=1 + normal(CHANNELS, scale=0.1),
        out_proj=normal(CHANNELS, FEATURES, scale=0.5),
    )


_RNG = np.random.default_rng(22)
LIFT = _RNG.normal(0, 1, (3, FEATURES)).astype(np.float32)
LAYERS = tuple(_draw_layer(_RNG) for _ in OFFSETS)
HEAD = _RNG.normal(0, 0.6, (FEATURES, CLASSES)).astype(np.float32)


def cells_of(offset: int) -> list[list[int]]:
    """Tokens of each cell, cells and tokens row by row."""

    def bands(extent: int) -> list[range]:
        borders = sorted({0, *range(offset, extent, WINDOW), extent})
        return [range(a, b) for a, b in itertools.pairwise(borders)]

    return [
        [y * COLUMNS + x for y in rows for x in columns]
        for rows in bands(ROWS)
        for columns in bands(COLUMNS)
    ]


def _silu(x: Values) -> Values:
    return x / (1 + np.exp(-x))


def run_layer(layer: Layer, x: Values, offset: int, memory: dict[str, Any], name: str) -> Values:
    """One layer on a map ``[tokens, FEATURES]``; past inputs and states live in ``memory``.

    Source: Mamba (arXiv 2312.00752) alg. 2, each cell of the map as a sequence of its own.
    """
    normed = x / np.sqrt((x**2).mean(1, keepdims=True) + EPSILON) * layer.norm
    u, z = normed @ layer.u_proj, normed @ layer.z_proj
    result = x.copy()
    for number, cell in enumerate(cells_of(offset)):
        past, states = memory.get(
            f"{name}.{number}", (np.zeros((TAPS - 1, CHANNELS)), np.zeros((CHANNELS, STATES)))
        )
        for token in cell:
            line = np.vstack([past, u[token]])
            past = line[1:]
            v = _silu((line * layer.conv_weight.T).sum(0) + layer.conv_bias)
            low, b, c = np.split(v @ layer.x_proj, [RANK, RANK + STATES])
            step = np.log1p(np.exp(low @ layer.dt_proj + layer.dt_bias))[:, None]
            states = np.exp(step * layer.A) * states + step * b * v[:, None]
            y = (states @ c + layer.skip * v) * _silu(z[token])
            result[token] += y @ layer.out_proj
        memory[f"{name}.{number}"] = (past, states)
    return result


def enlarge(scores: Values) -> Values:
    """Twice the size, bilinear, centres aligned: weights 3/4 and 1/4, edges repeated."""
    for axis in (1, 2):
        count = scores.shape[axis]
        own = np.repeat(scores, 2, axis)
        index = np.arange(2 * count)
        other = np.clip(index // 2 + np.where(index % 2, 1, -1), 0, count - 1)
        scores = 0.75 * own + 0.25 * np.take(scores, other, axis)
    return scores


def compute(frame: NDArray[np.uint8], step: int, memory: dict[str, Any]) -> Values:
    """Scores ``[CLASSES, HEIGHT, WIDTH]`` of one frame ``[HEIGHT, WIDTH, 3]``."""
    if step == 0:
        memory.clear()
    pixels = frame[::2, ::2].reshape(-1, 3).astype(np.float64)
    x = (pixels - 127.5) / 64 @ LIFT
    for i, (layer, offset) in enumerate(zip(LAYERS, OFFSETS, strict=True)):
        x = run_layer(layer, x, offset, memory, str(i))
    return enlarge((x @ HEAD).T.reshape(CLASSES, ROWS, COLUMNS))


def operator_cases() -> list[Case]:
    """The three forms of the network; frames and labels are the same."""
    plain = make_model()
    forms = {
        "operators": (plain, "windowed operators, whose definitions travel in the graph"),
        "layers": (fuse_layers(plain, "fp32"), "a whole temporal layer as one operator"),
        "lowered": (lowered(plain), "the same network in standard operators only"),
    }
    return [_case(name, about, model) for name, (model, about) in forms.items()]


def _case(name: str, about: str, model: onnx.ModelProto) -> Case:
    onnx.checker.check_model(model)
    names = tuple(spec.name for spec in state_table())
    return Case(
        name,
        about,
        state_table(),
        {"step": GraphSpec("step.onnx", names, names, ("labels",))},
        (ScheduleRow(0, "step"),),
        {"step.onnx": model.SerializeToString(deterministic=True)},
        compute,
        WITH_RESET,
        classes=CLASSES,
        margin=MARGIN,
    )


def state_table() -> tuple[StateSpec, ...]:
    """Inputs of each convolution and states of each scan, for every cell."""
    return tuple(
        StateSpec(f"layer{i}.{part}", (1, len(cells_of(offset)), CHANNELS, depth))
        for i, offset in enumerate(OFFSETS)
        for part, depth in (("conv", TAPS - 1), ("scan", STATES))
    )


def make_model() -> onnx.ModelProto:
    """The step graph with the operators and their functions."""
    constants: dict[str, NDArray[Any]] = {
        "starts": np.array([0, 0]),
        "ends": np.array([HEIGHT, WIDTH]),
        "axes": np.array([1, 2]),
        "strides": np.array([2, 2]),
        "tokens": np.array([1, ROWS * COLUMNS, 3]),
        "grid": np.array([1, CLASSES, ROWS, COLUMNS]),
        "sizes": np.array([RANK, STATES, STATES]),
        "last": np.array([-1]),
        "centre": np.float32(127.5),
        "range": np.float32(64),
        "epsilon": np.float32(EPSILON),
        "lift": LIFT,
        "head": HEAD,
    }
    nodes = [
        _node("Slice", ["frame", "starts", "ends", "axes", "strides"], ["pixels"]),
        _node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        _node("Reshape", ["float", "tokens"], ["list"]),
        _node("Sub", ["list", "centre"], ["centred"]),
        _node("Div", ["centred", "range"], ["scaled"]),
        _node("MatMul", ["scaled", "lift"], ["x0"]),
    ]
    for i, (layer, offset) in enumerate(zip(LAYERS, OFFSETS, strict=True)):
        constants |= {f"{name}{i}": value for name, value in vars(layer).items()}
        nodes += _layer_nodes(i, offset)
    nodes += [
        _node("MatMul", [f"x{len(LAYERS)}", "head"], ["token_scores"]),
        _node("Transpose", ["token_scores"], ["planes"], perm=[0, 2, 1]),
        _node("Reshape", ["planes", "grid"], ["scores"]),
        _node("UpsampleArgmax", ["scores"], ["labels"], height=HEIGHT, width=WIDTH),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "step",
            [_value("frame", (1, HEIGHT, WIDTH, 3), TensorProto.UINT8)]
            + [_value(f"{spec.name}.in", spec.shape) for spec in state_table()],
            [_value("labels", (1, HEIGHT, WIDTH), TensorProto.UINT8)]
            + [_value(f"{spec.name}.out", spec.shape) for spec in state_table()],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("streamseg", 1)],
        ir_version=9,
        producer_name="streamseg",
    )
    attach_lowering(model)
    return model


def _layer_nodes(i: int, offset: int) -> list[onnx.NodeProto]:
    place = dict(zip(GEOMETRY, (ROWS, COLUMNS, WINDOW, WINDOW, offset, offset), strict=True))
    conv, scan = (f"layer{i}.{part}" for part in ("conv", "scan"))

    def own(*names: str) -> list[str]:
        return [f"{name}{i}" for name in names]

    return [
        _node("Mul", own("x", "x"), own("square")),
        _node("ReduceMean", [*own("square"), "last"], own("mean"), keepdims=1),
        _node("Add", [*own("mean"), "epsilon"], own("shifted")),
        _node("Sqrt", own("shifted"), own("root")),
        _node("Div", own("x", "root"), own("quotient")),
        _node("Mul", own("quotient", "norm"), own("normed")),
        _node("MatMul", own("normed", "u_proj"), own("u")),
        _node("MatMul", own("normed", "z_proj"), own("z")),
        _node(
            "WindowedCausalConv",
            [*own("u", "conv_weight", "conv_bias"), f"{conv}.in"],
            [*own("v"), f"{conv}.out"],
            **place,
        ),
        _node("MatMul", own("v", "x_proj"), own("projected")),
        _node("Split", [*own("projected"), "sizes"], own("low", "b", "c"), axis=-1),
        _node("MatMul", own("low", "dt_proj"), own("dt")),
        _node(
            "WindowedSelectiveScan",
            [*own("v", "dt", "dt_bias", "A", "b", "c", "skip", "z"), f"{scan}.in"],
            [*own("y"), f"{scan}.out"],
            **place,
        ),
        _node("MatMul", own("y", "out_proj"), own("added")),
        _node("Add", own("x", "added"), [f"x{i + 1}"]),
    ]


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **values: Any) -> Any:
    ours = kind.startswith("Windowed") or kind == "UpsampleArgmax"
    domain = "streamseg" if ours else ""
    name = outputs[0]
    return helper.make_node(kind, inputs, outputs, name=name, domain=domain, **values)


def _value(name: str, shape: Sequence[int], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))

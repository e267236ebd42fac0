"""Attention against PyTorch in float64, at every instruction set of this machine and precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from streamseg.errors import BackendError, PluginNotFound
from streamseg.export.lowering import attach_lowering
from streamseg.export.ops_reference import multi_head_attention_reference
from streamseg.plugins.loader import find_library
from streamseg.plugins.native import NativeOps, load
from streamseg.plugins.table import ATTENTION, PRECISIONS

Array = NDArray[Any]
# Norm of the error as a share of the norm of the result.
TOLERANCE = {"fp32": 2e-6, "bf16": 6e-3, "int8": 3e-2}
# Batch, heads, queries, keys, depth: single tokens, odd sizes, and more than a block of each.
SIZES = (
    (1, 1, 1, 1, 1),
    (2, 3, 7, 49, 5),
    (1, 2, 130, 33, 32),
    (1, 1, 121, 513, 64),
    (1, 1, 19, 1100, 17),
)
try:
    OPS = load()
except PluginNotFound as reason:
    pytest.skip(str(reason), allow_module_level=True)


def operands(size: tuple[int, ...], *, seed: int = 0, spread: float = 1.0) -> list[Array]:
    """q, k and v."""
    batch, heads, queries, keys, depth = size
    rng = np.random.default_rng(seed)
    shapes = [(batch, tokens, heads * depth) for tokens in (queries, keys, keys)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    arrays[0] *= spread
    return arrays


def in_heads(array: Array, heads: int) -> torch.Tensor:
    return torch.from_numpy(array).double().unflatten(-1, (heads, -1)).transpose(1, 2)


def expected(arrays: list[Array], heads: int) -> Array:
    """PyTorch's own attention in float64."""
    y = torch.nn.functional.scaled_dot_product_attention(*(in_heads(a, heads) for a in arrays))
    return np.asarray(y.transpose(1, 2).flatten(2).numpy())


def largest_error(arrays: list[Array], heads: int, precision: str) -> Array:
    """What rounding can cost every number of the result, from the definition of the precisions.

    Scores move by at most ``shift``, so weights by a factor of exp(2 shift); the shares, in units
    of the largest, are rounded after that, and so are the values.
    """
    q, k, v = (in_heads(array, heads).numpy() for array in arrays)
    integers = precision == "int8"
    step = {"fp32": 2.0**-24, "bf16": 2.0**-9, "int8": 1 / 254}[precision]
    half_q, half_k, half_v = (
        np.broadcast_to(np.abs(x).max(axis, keepdims=True), x.shape) * step
        if integers
        else np.abs(x) * step
        for x, axis in ((q, -1), (k, -1), (v, -2))
    )
    turn, root = (0, 1, 3, 2), q.shape[-1] ** 0.5
    scores = q @ k.transpose(turn) / root
    shift = np.abs(q) @ half_k.transpose(turn) + half_q @ (np.abs(k) + half_k).transpose(turn)
    moved = 2 * shift.max(-1, keepdims=True) / root + 1e-5
    total = np.exp(scores - scores.max(-1, keepdims=True)).sum(-1, keepdims=True) * np.exp(-moved)
    lost = k.shape[2] / 510 / np.maximum(total - k.shape[2] / 510, 1e-9) if integers else step
    size = np.abs(v).max(-2, keepdims=True)
    bound = size * np.minimum(np.expm1(moved) + 2 * lost, 2) + half_v.max(-2, keepdims=True)
    return np.asarray(bound.transpose(0, 2, 1, 3).reshape(arrays[0].shape))


def error(got: Array, want: Array) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attention_follows_pytorch(ops: NativeOps, size: tuple[int, ...], precision: str) -> None:
    arrays = operands(size)
    before = [array.copy() for array in arrays]
    got = ops.multi_head_attention(*arrays, heads=size[1], precision=precision, threads=1)
    want = expected(arrays, size[1])
    assert error(got, want) <= TOLERANCE[precision]
    assert (np.abs(got - want) <= largest_error(arrays, size[1], precision)).all()
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("seed", range(4))
def test_hard_inputs_stay_within_the_bound_of_rounding(
    ops: NativeOps, seed: int, precision: str
) -> None:
    """Sharp softmaxes, one outlying channel, scores far from zero, keys that grow on the way."""
    rng = np.random.default_rng(seed)
    size = (1, 2, int(rng.integers(2, 60)), int(rng.integers(500, 1200)), int(rng.integers(1, 40)))
    arrays = operands(size, seed=seed, spread=float(10 ** rng.uniform(-2, 1.2)))
    arrays[1] += rng.normal(size=arrays[1].shape[-1]).astype(np.float32) * 3
    arrays[1] *= np.linspace(0.1, 2, size[3], dtype=np.float32)[:, None]
    arrays[2][..., 0] *= 50
    got = ops.multi_head_attention(*arrays, heads=2, precision=precision, threads=1)
    wrong = np.abs(got - expected(arrays, 2))
    assert (wrong <= largest_error(arrays, 2, precision)).all()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_threads_do_not_change_the_result(ops: NativeOps, precision: str) -> None:
    arrays = operands((2, 2, 250, 530, 8))
    one, three = (
        ops.multi_head_attention(*arrays, heads=2, precision=precision, threads=threads)
        for threads in (1, 3)
    )
    assert np.array_equal(one, three)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_block_of_keys_that_all_others_outweigh_adds_nothing(
    ops: NativeOps, precision: str
) -> None:
    """The running maximum rises, and falls, by more than float32's exponents span."""
    size = (1, 1, 5, 1200, 4)
    for slope in (1, -1):
        arrays = operands(size)
        arrays[0][:] = 100
        arrays[1][:] = np.sign(np.arange(1200) - 600)[:, None] * 20 * slope
        got = ops.multi_head_attention(*arrays, heads=1, precision=precision, threads=1)
        assert error(got, expected(arrays, 1)) <= TOLERANCE[precision]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_non_finite_values_reach_the_result(
    ops: NativeOps, place: int, value: float, precision: str
) -> None:
    for size in ((1, 2, 3, 20, 6), (1, 2, 3, 520, 6)):
        arrays = operands(size)
        arrays[place][0, 1, 7] = value  # second head, second channel
        y = ops.multi_head_attention(*arrays, heads=2, precision=precision, threads=1)
        rows, columns = (1, slice(6, 12)) if place == 0 else (slice(None), slice(6, 12))
        columns = slice(7, 8) if place == 2 else columns
        assert not np.isfinite(y[0, rows, columns]).any()
        assert np.isfinite(y[..., :6]).all()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_zeros_are_averaged(ops: NativeOps, precision: str) -> None:
    arrays = operands((1, 1, 3, 40, 8))
    arrays[0][:] = arrays[1][:] = 0
    got = ops.multi_head_attention(*arrays, heads=1, precision=precision, threads=1)
    assert error(got, expected(arrays, 1)) <= TOLERANCE[precision]
    arrays[2][:] = 0
    got = ops.multi_head_attention(*arrays, heads=1, precision=precision, threads=1)
    assert np.array_equal(got, np.zeros_like(got))


@pytest.mark.parametrize(
    ("index", "shape", "complaint"),
    [
        (1, (1, 9, 11), r"k has shape \[1, 9, 11\], expected \[1, \?, 12\]"),
        (2, (1, 8, 12), r"v has shape \[1, 8, 12\], expected \[1, 9, 12\]"),
        (1, (2, 9, 12), "k has shape"),
        (0, (5, 12), "q has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    index: int, shape: tuple[int, ...], complaint: str
) -> None:
    arrays = operands((1, 2, 5, 9, 6))
    arrays[index] = np.zeros(shape, np.float32)
    with pytest.raises(BackendError, match=complaint):
        OPS.multi_head_attention(*arrays, heads=2)


def test_wrong_attributes_are_refused() -> None:
    arrays = operands((1, 2, 5, 9, 6))
    with pytest.raises(BackendError, match=r"features are 12, expected a multiple of heads \(5\)"):
        OPS.multi_head_attention(*arrays, heads=5)
    with pytest.raises(BackendError, match="heads is 0, expected 1 to"):
        OPS.multi_head_attention(*arrays, heads=0)
    with pytest.raises(BackendError, match="precision is 'int4', expected one of"):
        OPS.multi_head_attention(*arrays, heads=2, precision="int4")
    with pytest.raises(BackendError, match="arrays are float64, expected float32"):
        OPS.multi_head_attention(*(array.astype(np.float64) for array in arrays), heads=2)


def graph(size: tuple[int, ...], precision: str) -> ModelProto:
    batch, heads, queries, keys, depth = size
    shapes = {"q": queries, "k": keys, "v": keys}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, n, heads * depth])
        for name, n in {**shapes, "y": queries}.items()
    }
    attributes = {"heads": heads, "precision": PRECISIONS.index(precision)}
    node = helper.make_node(ATTENTION.name, list("qkv"), ["y"], domain="streamseg", **attributes)
    made = helper.make_graph([node], "g", [values[n] for n in "qkv"], [values["y"]])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("streamseg", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9)
    attach_lowering(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def run_graph(model: ModelProto, arrays: list[Array], *, native: bool) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if native:
        options.register_custom_ops_library(str(find_library()))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, dict(zip("qkv", arrays, strict=True)))[0])


@pytest.mark.parametrize("precision", TOLERANCE)
def test_onnxruntime_runs_the_kernel_and_the_lowering(precision: str) -> None:
    size = (2, 3, 130, 49, 5)
    arrays, model = operands(size), graph(size, precision)
    want = expected(arrays, 3)
    assert error(run_graph(model, arrays, native=False), want) <= 2e-6
    native = run_graph(model, arrays, native=True)
    assert error(native, want) <= TOLERANCE[precision]
    assert np.array_equal(native, OPS.multi_head_attention(*arrays, heads=3, precision=precision))


def test_onnxruntime_reports_heads_that_do_not_divide() -> None:
    model = graph((1, 2, 5, 9, 6), "int8")
    next(entry for entry in model.graph.node[0].attribute if entry.name == "heads").i = 5
    with pytest.raises(
        Exception, match=r"MultiHeadAttention: features are 12, expected a multiple"
    ):
        run_graph(model, operands((1, 2, 5, 9, 6)), native=True)


def test_reference_is_pytorchs() -> None:
    arrays = operands((2, 3, 7, 49, 5))
    wide = [torch.from_numpy(array).double() for array in arrays]
    assert error(multi_head_attention_reference(*wide, 3).numpy(), expected(arrays, 3)) <= 1e-12

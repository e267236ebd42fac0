"""Graphs of several streams: block by block what single streams give, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamseg.errors import ExportError
from streamseg.export.batched_graph import batch_graph
from streamseg.export.open_batch import open_batch
from streamseg.runtime.bundle.bundle import read_bundle
from tests.conftest import TinyBundle

FLOAT, COUNT = TensorProto.FLOAT, 3
Arrays = dict[str, NDArray[np.generic]]
Node = onnx.NodeProto
Add = Callable[..., str]


def graph_of(
    shape: Sequence[int], build: Callable[[Add, Callable[[NDArray[np.generic]], str]], str]
) -> onnx.ModelProto:
    """A graph over ``x`` that ``build`` writes node by node."""
    nodes: list[Node] = []
    constants: list[onnx.TensorProto] = []

    def add(kind: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], f"n{len(nodes)}", **attributes))
        return name

    def constant(value: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(value, f"c{len(constants)}"))
        return f"c{len(constants) - 1}"

    nodes.append(helper.make_node("Identity", [build(add, constant)], ["out"], "last"))
    x = helper.make_tensor_value_info("x", FLOAT, list(shape))
    out = helper.make_tensor_value_info("out", FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def check(model: onnx.ModelProto, atol: float = 0.0) -> onnx.ModelProto:
    """The batch's blocks are the results of single streams."""
    random = np.random.default_rng(0)
    many = batch_graph(model, COUNT)

    def noise(entry: onnx.ValueInfoProto) -> NDArray[np.generic]:
        shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        if entry.type.tensor_type.elem_type == TensorProto.UINT8:
            return random.integers(0, 256, shape, dtype=np.uint8)
        return random.standard_normal(shape).astype(np.float32)

    feeds = [{entry.name: noise(entry) for entry in model.graph.input} for _ in range(COUNT)]
    wanted = [run(model, feed) for feed in feeds]

    def compare(graph: onnx.ModelProto, count: int, atol: float) -> None:
        fed = {name: np.concatenate([feed[name] for feed in feeds[:count]]) for name in feeds[0]}
        for name, array in run(graph, fed).items():
            want = np.concatenate([result[name] for result in wanted[:count]])
            np.testing.assert_allclose(array, want, rtol=0, atol=atol, err_msg=name)

    compare(many, COUNT, atol)
    opened = open_batch(many, COUNT)
    for count in range(1, COUNT + 1):
        # ONNX Runtime fuses other nodes where a shape is open.
        compare(opened, count, max(atol, 1e-5))
    return many


def test_windows_along_the_first_axis_and_their_biases_stay_with_their_stream() -> None:
    random = np.random.default_rng(0)
    bias = random.standard_normal((6, 1, 4)).astype(np.float32)

    def build(add: Add, constant: Callable[..., str]) -> str:
        parts = add("Reshape", "x", constant(np.array([1, 2, 2, 3, 2, 4])))
        moved = add("Transpose", parts, perm=[0, 1, 3, 2, 4, 5])
        windows = add("Reshape", moved, constant(np.array([6, 4, 4])))
        biased = add("Add", windows, constant(bias))
        weights = add("Softmax", biased, axis=-1)
        return add("MatMul", weights, windows)

    model = graph_of((1, 4, 6, 4), build)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", FLOAT, [6, 4, 4]))
    with pytest.raises(ExportError, match="'out' begins with an axis of 6, expected 1"):
        batch_graph(model, COUNT)

    def joined(add: Add, constant: Callable[..., str]) -> str:
        return add("Reshape", build(add, constant), constant(np.array([1, 24, 4])))

    check(graph_of((1, 4, 6, 4), joined))


def test_rows_of_a_product_and_resized_maps_stay_with_their_stream() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)

    def build(add: Add, constant: Callable[..., str]) -> str:
        sizes = constant(np.array([1, 3, 8, 10]))
        large = add("Resize", "x", "", "", sizes, mode="linear")
        rows = add("Reshape", large, constant(np.array([48, 5])))
        product = add("Gemm", rows, constant(weight))
        whole = add("Unsqueeze", product, constant(np.array([0])))
        return add("Concat", whole, constant(np.ones((1, 48, 2), np.float32)), axis=2)

    check(graph_of((1, 3, 4, 5), build), atol=1e-6)


def test_quantised_products_stay_with_their_stream() -> None:
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (4, 6), dtype=np.int8)
    scales = random.uniform(0.01, 0.1, 6).astype(np.float32)

    def build(add: Add, constant: Callable[..., str]) -> str:
        step, zero = constant(np.float32(0.05)), constant(np.int8(0))
        coded = add("QuantizeLinear", "x", step, zero)
        values = add("DequantizeLinear", coded, step, zero)
        zeros = constant(np.zeros(6, np.int8))
        weights = add("DequantizeLinear", constant(weight), constant(scales), zeros, axis=1)
        return add("MatMul", values, weights)

    check(graph_of((1, 5, 4), build), atol=1e-6)


def test_entries_chosen_by_each_stream_are_its_own() -> None:
    def build(add: Add, constant: Callable[..., str]) -> str:
        best = add("ArgMax", "x", axis=2, keepdims=1)
        other = add("Neg", "x")
        own = add("GatherElements", other, best, axis=2)
        fixed = constant(np.array([[[3], [1], [0]]]))
        return add("Concat", own, add("GatherElements", "x", fixed, axis=2), axis=2)

    check(graph_of((1, 3, 5), build))


@pytest.mark.parametrize(
    ("reason", "build"),
    [
        ("moves the axis of streams", lambda add, _: add("Transpose", "x", perm=[1, 0, 2])),
        (
            "works along the axis of streams",
            lambda add, constant: add("ReduceMean", "x", constant(np.array([0]))),
        ),
        (
            "works along the axis of streams",
            lambda add, _: add("GatherElements", "x", add("ArgMax", "x", axis=2, keepdims=1)),
        ),
        (
            "multiplies streams",
            lambda add, _: add("MatMul", *[add("Reshape", "x", "c1")] * 2),
        ),
        ("is not known to keep streams apart", lambda add, _: add("NonZero", "x")),
        ("works along the axis of streams", lambda add, _: add("ReduceMax", "x")),
        (
            "spreads",
            lambda add, constant: add("Add", "x", constant(np.ones((2, 1, 4, 4), np.float32))),
        ),
        (
            "has weights that depend on the stream",
            lambda add, _: add("Conv", "x", add("Reshape", "x", "c0")),
        ),
    ],
)
def test_nodes_that_would_mix_streams_are_refused(
    reason: str, build: Callable[[Add, Callable[..., str]], str]
) -> None:
    def whole(add: Add, constant: Callable[..., str]) -> str:
        constant(np.array([4, 4, 1])), constant(np.array([4, 4]))
        return build(add, constant)

    model = graph_of((1, 4, 4), whole)
    if not model.graph.output[0].type.tensor_type.shape.dim:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", FLOAT, [1, 4, 4]))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ExportError, match=f"several streams at once: .*{reason}"):
        batch_graph(model, COUNT)


@pytest.mark.parametrize("family", ["tv3s", "segformer"])
def test_exported_networks_give_every_stream_its_own_result(
    family: str, tiny_bundle: TinyBundle
) -> None:
    (content,) = read_bundle(tiny_bundle(family, "fp32")).graphs.values()
    model = onnx.load_from_string(content)
    many = check(model, atol=1e-5)
    assert len(many.graph.node) == len(model.graph.node)

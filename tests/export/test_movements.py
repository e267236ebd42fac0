"""Copies that are dropped from graphs: same bits in ONNX Runtime, and no more than may go."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamseg.export.movements import drop_copies
from streamseg.runtime.bundle.bundle import read_bundle
from tests.conftest import TinyBundle

FLOAT = TensorProto.FLOAT
Shape = tuple[int, ...]


class Chain:
    """A graph that is written node by node, every tensor with its shape."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.name = shape, "x"
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.infos: list[onnx.ValueInfoProto] = []
        self.first = helper.make_tensor_value_info("x", FLOAT, shape)
        self.shapes = {"x": shape}

    def add(self, kind: str, shape: Shape, *more: str, **attributes: Any) -> None:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.name, *more], [name], **attributes))
        self.name, self.shape, self.shapes[name] = name, shape, shape
        self.infos.append(helper.make_tensor_value_info(name, FLOAT, shape))

    def constant(self, value: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def transpose(self, order: list[int]) -> None:
        self.add("Transpose", tuple(self.shape[axis] for axis in order), perm=order)

    def reshape(self, shape: Shape) -> None:
        self.add("Reshape", shape, self.constant(np.array(shape, np.int64)))

    def product(self, width: int, random: np.random.Generator) -> None:
        weight = random.standard_normal((self.shape[-1], width)).astype(np.float32)
        self.add("MatMul", (*self.shape[:-1], width), self.constant(weight))

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        results = [
            helper.make_tensor_value_info(name, FLOAT, self.shapes[name]) for name in outputs
        ]
        infos = [info for info in self.infos if info.name not in outputs]
        graph = helper.make_graph(
            self.nodes, "chain", [self.first], results, self.constants, value_info=infos
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(made, full_check=True)
        return made


def split_somehow(shape: Shape, random: np.random.Generator) -> Shape:
    """Another shape of as many elements, ones among the extents."""
    extents = [extent for extent in shape if extent != 1] or [1]
    if len(extents) > 2 and random.random() < 0.5:
        at = int(random.integers(len(extents) - 1))
        extents[at : at + 2] = [extents[at] * extents[at + 1]]
    for _ in range(int(random.integers(0, 3))):
        extents.insert(int(random.integers(len(extents) + 1)), 1)
    return tuple(extents)


def random_chain(random: np.random.Generator) -> onnx.ModelProto:
    chain = Chain(tuple(int(extent) for extent in random.choice([1, 1, 2, 3, 4], 4)))
    for _ in range(int(random.integers(2, 9))):
        kind = random.choice(
            ["Transpose", "Transpose", "swap", "Reshape", "Gelu", "Relu", "MatMul"]
        )
        rank = len(chain.shape)
        if kind == "Transpose":
            chain.transpose([int(axis) for axis in random.permutation(rank)])
        elif kind == "swap" and rank > 1:
            chain.transpose([*range(rank - 2), rank - 1, rank - 2])
        elif kind == "Reshape":
            chain.reshape(split_somehow(chain.shape, random))
        elif kind == "MatMul" and rank > 1:
            chain.product(int(random.integers(1, 4)), random)
            if random.random() < 0.5:
                bias = random.standard_normal(chain.shape[-1:]).astype(np.float32)
                chain.add("Add", chain.shape, chain.constant(bias))
        elif kind in ("Gelu", "Relu"):
            chain.add(kind, chain.shape)
    if not chain.nodes:
        chain.add("Relu", chain.shape)
    others = [node.output[0] for node in chain.nodes[:-1] if random.random() < 0.2]
    return chain.model([*others, chain.name])


def run_plainly(model: onnx.ModelProto, x: NDArray[Any]) -> list[NDArray[Any]]:
    """Node by node as written, nothing fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[NDArray[Any]] = session.run(None, {"x": x})
    return results


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("seed", range(200))
def test_generated_graphs_give_the_same_bits(seed: int) -> None:
    random = np.random.default_rng(seed)
    model = random_chain(random)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = random.standard_normal(shape).astype(np.float32)
    want = run_plainly(model, x)
    before = kinds(model)
    drop_copies(model)
    onnx.checker.check_model(model, full_check=True)
    got = run_plainly(model, x)
    assert len(got) == len(want)
    assert all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(got, want, strict=True))
    assert kinds(model)["Transpose"] <= before["Transpose"]
    assert kinds(model)["MatMul"] == before["MatMul"]


def test_moves_without_effect_and_moves_that_cancel_go() -> None:
    chain = Chain((1, 6, 1, 4))
    chain.transpose([0, 2, 1, 3])  # only an axis of one element moves
    chain.reshape((1, 6, 4))
    chain.transpose([0, 2, 1])
    chain.reshape((1, 4, 2, 3))
    chain.reshape((1, 4, 6))
    chain.transpose([0, 2, 1])  # back again
    chain.add("Relu", chain.shape)
    model = chain.model([chain.name])
    drop_copies(model)
    assert kinds(model) == {"Reshape": 1, "Relu": 1}


def test_what_others_read_stays() -> None:
    chain = Chain((2, 3, 4))
    chain.transpose([0, 2, 1])
    chain.transpose([0, 2, 1])
    chain.add("Relu", chain.shape)
    model = chain.model(["t0", chain.name])
    drop_copies(model)
    assert kinds(model) == {"Transpose": 1, "Relu": 1}


def test_graphs_of_unknown_shapes_stay_as_they_are() -> None:
    chain = Chain((1, 6, 1, 4))
    chain.transpose([0, 2, 1, 3])
    chain.add("Relu", chain.shape)
    model = chain.model([chain.name])
    for entry in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        entry.type.tensor_type.shape.dim[1].dim_param = "n"
        entry.type.tensor_type.shape.dim[2].dim_param = "m"
    want = model.SerializeToString()
    drop_copies(model)
    assert model.SerializeToString() == want


@pytest.mark.parametrize("family", ["tv3s", "mrcfa"])
def test_exported_graphs_have_no_move_without_effect(family: str, tiny_bundle: TinyBundle) -> None:
    for content in read_bundle(tiny_bundle(family, "fp32")).graphs.values():
        exported = onnx.load_from_string(content)
        again = onnx.load_from_string(content)
        drop_copies(again)
        assert [node.op_type for node in again.graph.node] == [
            node.op_type for node in exported.graph.node
        ]
        shapes = {
            entry.name: [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
            for entry in (*exported.graph.value_info, *exported.graph.input)
        }
        for node in exported.graph.node:
            if node.op_type == "Transpose":
                order = list(node.attribute[0].ints)
                moved = [axis for axis in order if shapes[node.input[0]][axis] != 1]
                assert moved != sorted(moved), node.name

"""What goes wrong inside engines without a message, as rewritten graphs; and a parser's reading.

The fake engine runs its graph in ONNX Runtime, so a fault is a graph that computes what the faulty
engine would.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

Fault = Callable[[ModelProto], None]


def read_as_tensorrt(graph: ModelProto) -> ModelProto:
    """The graph as the parsers of TensorRT 10 and 11.1 read it.

    GridSample of mode ``bilinear`` is linear; any other name but ``bicubic`` is nearest.
    """
    read = ModelProto()
    read.CopyFrom(graph)
    for node in read.graph.node:
        for attribute in node.attribute:
            if node.op_type == "GridSample" and attribute.name == "mode":
                attribute.s = b"linear" if attribute.s == b"bilinear" else b"nearest"
    return read


def sample_nearest(model: ModelProto) -> None:
    """Every interpolation takes the nearest value."""
    found = False
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "mode" and node.op_type in ("GridSample", "Resize"):
                attribute.s, found = b"nearest", True
    assert found


def zero_one_layer(model: ModelProto) -> None:
    """The product in the middle of the network writes zeros."""
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    _scale(model, products[len(products) // 2].output, 0.0)


def round_like_tf32(model: ModelProto) -> None:
    """Products round their float32 inputs to ten bits of mantissa.

    By Veltkamp's splitting: ``c = 8193 x; c - (c - x)`` keeps the upper eleven bits of ``x``.
    """
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(8193), "tf32.splitter"))
    nodes: list[NodeProto] = []
    for i, node in enumerate(graph.node):
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            for j, name in enumerate(node.input[:2]):
                big, low, high = (f"tf32.{i}.{j}.{part}" for part in ("big", "low", "high"))
                nodes += [
                    helper.make_node("Mul", [name, "tf32.splitter"], [big]),
                    helper.make_node("Sub", [big, name], [low]),
                    helper.make_node("Sub", [big, low], [high]),
                ]
                node.input[j] = high
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def forget_state(model: ModelProto) -> None:
    """State is read as zeros: what a step wrote does not reach the next one."""
    names = [entry.name for entry in model.graph.input if entry.name != "frame"]
    _scale_inputs(model, names)


def _scale(model: ModelProto, outputs: list[str], factor: float) -> None:
    graph = model.graph
    node = next(node for node in graph.node if node.output[0] == outputs[0])
    name = outputs[0]
    node.output[0] = f"{name}.full"
    graph.initializer.append(numpy_helper.from_array(np.float32(factor), f"{name}.factor"))
    scaled = helper.make_node("Mul", [f"{name}.full", f"{name}.factor"], [name])
    graph.node.insert(list(graph.node).index(node) + 1, scaled)


def _scale_inputs(model: ModelProto, names: list[str]) -> None:
    graph = model.graph
    for node in graph.node:
        node.input[:] = [f"{name}.zeroed" if name in names else name for name in node.input]
    for i, name in enumerate(names):
        kind = next(e.type.tensor_type.elem_type for e in graph.input if e.name == name)
        zero = np.zeros((), helper.tensor_dtype_to_np_dtype(kind))
        graph.initializer.append(numpy_helper.from_array(zero, f"{name}.zero"))
        graph.node.insert(i, helper.make_node("Mul", [name, f"{name}.zero"], [f"{name}.zeroed"]))


FAULTS: dict[str, Fault] = {
    "nearest sampling": sample_nearest,
    "one layer zeroed": zero_one_layer,
    "TF32-like rounding": round_like_tf32,
    "state not fed back": forget_state,
}

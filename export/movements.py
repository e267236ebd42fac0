"""Copies that a step graph does without: moves that change no order, moves that cancel.

An exporter writes ``transpose`` as Transpose, also where only axes of one element move, which every
runtime copies; and reshapes one by one. Values are the same bit by bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx.shape_inference
from onnx import ModelProto, NodeProto, helper, numpy_helper

Shape = tuple[int, ...]


def drop_copies(model: ModelProto) -> None:
    """Remove what moves nothing, in place; a graph whose shapes are unknown stays as it is."""
    graph = _Graph(model)
    changed = True
    while changed:
        changed = False
        for rule in _RULES:
            for node in list(model.graph.node):
                changed |= rule(graph, node)
        graph.remove_unread()


class _Graph:
    """Shapes, writers and readers, kept up to date."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        entries = (*inferred.value_info, *inferred.input, *inferred.output)
        self.shapes: dict[str, Shape] = {}
        for entry in entries:
            dims = entry.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                self.shapes[entry.name] = tuple(dim.dim_value for dim in dims)
        self.outputs = {entry.name for entry in self.graph.output}
        self.constants = {entry.name for entry in self.graph.initializer}
        self.update()

    def update(self) -> None:
        """Read writers and readers off the nodes."""
        self.writers = {name: node for node in self.graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def writer(self, name: str, kind: str) -> NodeProto | None:
        """The node of a kind that writes a tensor."""
        node = self.writers.get(name)
        return node if node is not None and node.op_type == kind and not node.domain else None

    def reshape(self, node: NodeProto, source: str) -> None:
        """Turn a node into a Reshape of ``source`` to the shape of its output."""
        shape = self.shapes[node.output[0]]
        name = "shape." + ".".join(map(str, shape))
        if name not in self.constants:
            self.constants.add(name)
            self.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        del node.input[:], node.attribute[:]
        node.op_type = "Reshape"
        node.input.extend([source, name])
        self.update()

    def replace(self, old: str, new: str) -> None:
        """Have the readers of a tensor read another."""
        for node in self.readers.get(old, []):
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        self.update()

    def remove_unread(self) -> None:
        """Drop nodes, constants and notes on tensors that nobody reads."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.graph.node):
            if needed & set(node.output):
                kept.append(node)
                needed.update(_names_read(node))
        del self.graph.node[:]
        self.graph.node.extend(reversed(kept))
        _keep(self.graph.initializer, needed)
        written = {name for node in kept for name in node.output}
        _keep(self.graph.value_info, written)
        self.constants = {entry.name for entry in self.graph.initializer}
        self.update()


def _names_read(node: NodeProto) -> Iterable[str]:
    """Also what the bodies of loops read of the graph around them."""
    yield from node.input
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in body.node:
                yield from _names_read(inner)


def _keep(entries: Any, names: Collection[str]) -> None:
    """Leave only the entries of these names in a list of a graph."""
    kept = [entry for entry in entries if entry.name in names]
    if len(kept) < len(entries):
        del entries[:]
        entries.extend(kept)


def _order(node: NodeProto, rank: int) -> list[int]:
    """Axes of a Transpose."""
    given = next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), None)
    return list(reversed(range(rank))) if given is None else given


def _move_without_effect(graph: _Graph, node: NodeProto) -> bool:
    """A Transpose of which only axes of one element move is a Reshape."""
    if node.op_type != "Transpose" or not graph.shapes.keys() >= {node.input[0], node.output[0]}:
        return False
    shape = graph.shapes[node.input[0]]
    moved = [axis for axis in _order(node, len(shape)) if shape[axis] != 1]
    if moved != sorted(moved):
        return False
    graph.reshape(node, node.input[0])
    return True


def _reshape_of_a_reshape(graph: _Graph, node: NodeProto) -> bool:
    """The first of two reshapes says nothing."""
    if node.op_type != "Reshape" or node.output[0] not in graph.shapes:
        return False
    before = graph.writer(node.input[0], "Reshape")
    if before is None:
        return False
    graph.reshape(node, before.input[0])
    return True


def _reshape_to_the_same(graph: _Graph, node: NodeProto) -> bool:
    source, result = node.input[0] if node.input else "", node.output[0]
    if node.op_type != "Reshape" or result in graph.outputs or not graph.readers.get(result):
        return False
    if source not in graph.shapes or graph.shapes.get(result) != graph.shapes[source]:
        return False
    graph.replace(result, source)
    return True


def _transpose_of_a_transpose(graph: _Graph, node: NodeProto) -> bool:
    """Two become one, or none."""
    if node.op_type != "Transpose" or node.input[0] not in graph.shapes:
        return False
    before = graph.writer(node.input[0], "Transpose")
    if before is None or not graph.readers.get(node.output[0]):
        return False
    rank = len(graph.shapes[node.input[0]])
    first, second = _order(before, rank), _order(node, rank)
    order = [first[axis] for axis in second]
    if order == sorted(order) and node.output[0] not in graph.outputs:
        graph.replace(node.output[0], before.input[0])
        return True
    node.input[0] = before.input[0]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("perm", order))
    graph.update()
    return True


_RULES = (
    _move_without_effect,
    _reshape_of_a_reshape,
    _reshape_to_the_same,
    _transpose_of_a_transpose,
)

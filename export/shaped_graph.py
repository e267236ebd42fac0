"""A step graph with its shapes, writers and readers, for passes that rearrange its nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

Shape = tuple[int, ...]


class ShapedGraph:
    """Shapes, writers and readers of tensors; ``update`` after every change of nodes.

    Attributes:
        graph: the model's graph, edited in place.
        shapes: of every tensor whose shape is known, by name.
        outputs: names of the graph's outputs.
        constants: names of its initialisers.
        writers: the node that writes a tensor.
        readers: the nodes that read it.
    """

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        entries = (*inferred.value_info, *inferred.input, *inferred.output)
        self.shapes: dict[str, Shape] = {}
        for entry in entries:
            dims = entry.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                self.shapes[entry.name] = tuple(dim.dim_value for dim in dims)
        self.shapes.update({entry.name: tuple(entry.dims) for entry in self.graph.initializer})
        self.outputs = {entry.name for entry in self.graph.output}
        self.constants = {entry.name for entry in self.graph.initializer}
        self.update()

    def update(self) -> None:
        """Read writers and readers off the nodes."""
        self.writers: dict[str, NodeProto] = {
            name: node for node in self.graph.node for name in node.output
        }
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def writer(self, name: str, kind: str) -> NodeProto | None:
        """The node of a kind that writes a tensor."""
        node = self.writers.get(name)
        return node if node is not None and node.op_type == kind and not node.domain else None

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """The name of an initialiser, which is added unless it is there."""
        if name not in self.constants:
            self.constants.add(name)
            self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def reshape(self, node: NodeProto, source: str) -> None:
        """Turn a node into a Reshape of ``source`` to the shape of its output."""
        shape = self.shapes[node.output[0]]
        name = "shape." + ".".join(map(str, shape))
        self.constant(name, np.array(shape, np.int64))
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

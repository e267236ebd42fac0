"""Attention as one operator each: ``MultiHeadAttention`` instead of products around a softmax.

What is fused computes the same: how queries, keys and values lie in the tensors that linear layers
write is followed through every Reshape and Transpose. Attention with a mask or a bias, or with
another scale than 1 / sqrt(depth), stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from streamseg.export.attention_strips import AttentionNodes, find_attention
from streamseg.export.shaped_graph import Shape, ShapedGraph
from streamseg.plugins.table import ATTENTION, DOMAIN, PRECISIONS

_MOVEMENTS = ("Reshape", "Transpose")
_KINDS = (("MatMul", "Mul", "Softmax", "MatMul"), ("MatMul", "Div", "Softmax", "MatMul"))
# Axes of ``[batch, tokens, heads, depth]`` in each operand, and in the result.
_IN_HEADS, _TURNED = (0, 2, 1, 3), (0, 2, 3, 1)

Places = NDArray[np.int32]


def fuse_attention(model: ModelProto, precision: str) -> int:
    """Make every attention that the operator computes one node, in place.

    Args:
        model: a float32 step graph without lowerings; one whose shapes are unknown stays as it is.
        precision: of both products: ``fp32``, ``bf16`` or ``int8``.
    Returns:
        How many became one node.
    """
    graph = ShapedGraph(model)
    found = [_fit(graph, entry) for entry in find_attention(graph)]
    made = [entry for entry in found if entry is not None]
    for index, entry in enumerate(made):
        _replace(graph, entry.node(f"attention{index}", PRECISIONS.index(precision)))
    if made:
        graph.remove_unread()
    return len(made)


@dataclass(frozen=True)
class _Fused:
    """Tensors ``[batch, tokens, features]`` around an attention."""

    q: str
    k: str
    v: str
    y: str
    heads: int

    def node(self, name: str, precision: int) -> NodeProto:
        made: NodeProto = helper.make_node(
            ATTENTION.name,
            [self.q, self.k, self.v],
            [self.y],
            name=name,
            domain=DOMAIN,
            heads=self.heads,
            precision=precision,
        )
        return made


def _fit(graph: ShapedGraph, attention: AttentionNodes) -> _Fused | None:
    """The operator's operands; ``None`` where the nodes compute something else."""
    nodes, scores = attention.nodes, attention.scores
    if tuple(node.op_type for node in nodes) not in _KINDS or len(scores) != 4:
        return None
    queries, keys, values = nodes[0].input[0], nodes[0].input[1], nodes[3].input[1]
    batch, heads, rows, columns = scores
    depth = graph.shapes.get(queries, (0,))[-1]
    if not _is_scaled(graph, nodes[1], nodes[0].output[0], depth):
        return None
    q = _source(graph, queries, (batch, rows, heads, depth), _IN_HEADS)
    k = _source(graph, keys, (batch, columns, heads, depth), _TURNED)
    v = _source(graph, values, (batch, columns, heads, depth), _IN_HEADS)
    y = _target(graph, nodes[3].output[0], (batch, rows, heads, depth))
    if q is None or k is None or v is None or y is None:
        return None
    return _Fused(q, k, v, y, heads)


def _is_scaled(graph: ShapedGraph, node: NodeProto, scores: str, depth: int) -> bool:
    """Whether a node divides the scores by the root of the depth."""
    names = [name for name in node.input if name != scores]
    if len(names) != 1 or (node.op_type == "Div" and node.input[0] != scores):
        return False
    constants = {entry.name: entry for entry in graph.graph.initializer}
    if names[0] not in constants:
        return False
    value = numpy_helper.to_array(constants[names[0]])
    wanted = depth**0.5 if node.op_type == "Div" else depth**-0.5
    return value.size == 1 and bool(np.isclose(value, wanted, rtol=1e-5, atol=0).all())


def _source(graph: ShapedGraph, name: str, split: Shape, order: tuple[int, ...]) -> str | None:
    """The tensor ``[batch, tokens, features]`` that an operand is a rearrangement of.

    ``split`` is that tensor's shape by heads, and ``order`` where these axes lie in the operand.
    """
    if graph.shapes.get(name) != tuple(split[axis] for axis in order):
        return None
    joined, moves = (*split[:2], split[2] * split[3]), []
    while graph.shapes.get(name) != joined:
        node = graph.writers.get(name)
        if node is None or not _is_movement(graph, node):
            return None
        moves.append(node)
        name = node.input[0]
    found = _places(joined)
    for node in reversed(moves):
        found = _moved(graph, node, found)
    return name if np.array_equal(found, _places(split).transpose(order)) else None


def _target(graph: ShapedGraph, name: str, split: Shape) -> str | None:
    """The only tensor that the result is rearranged to, ``[batch, tokens, features]``."""
    joined = (*split[:2], split[2] * split[3])
    found = _places(split).transpose(_IN_HEADS)
    if graph.shapes.get(name) != found.shape:
        return None
    while graph.shapes.get(name) != joined:
        readers = graph.readers.get(name, [])
        if len(readers) != 1 or name in graph.outputs or not _is_movement(graph, readers[0]):
            return None
        found = _moved(graph, readers[0], found)
        name = readers[0].output[0]
    return name if np.array_equal(found, _places(joined)) else None


def _is_movement(graph: ShapedGraph, node: NodeProto) -> bool:
    known = graph.shapes.keys() >= {node.input[0], node.output[0]}
    return node.op_type in _MOVEMENTS and not node.domain and known


def _places(shape: Shape) -> Places:
    places: Places = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return places


def _moved(graph: ShapedGraph, node: NodeProto, places: Places) -> Places:
    if node.op_type == "Reshape":
        return places.reshape(graph.shapes[node.output[0]])
    order = next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), None)
    return np.transpose(places, order)


def _replace(graph: ShapedGraph, made: NodeProto) -> None:
    """Put a node where the last of what it replaces stood."""
    for node in graph.graph.node:
        if made.output[0] in node.output:
            node.CopyFrom(made)
    graph.update()

"""Attention in strips, so that the scores of a large frame never exist at once.

Each row of attention's scores belongs to one query: its softmax and its sum of values need no other
row. Where all scores together are large, the queries (or the windows, where attention runs in
windows) are cut into strips that run one after the other, and the results are joined: the same
products and sums, and one strip of scores in memory. Small attention stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from streamseg.export.shaped_graph import Shape, ShapedGraph

logger = logging.getLogger(__name__)

# Bytes of the scores of one attention, or of one strip, in float32.
SCORES_LIMIT = 64 << 20
# Rows of a strip are a multiple of this, the last strip's aside.
ROWS = 16
_SCALING = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True)
class AttentionNodes:
    """Nodes from the product of queries and keys to the product with values.

    Attributes:
        nodes: in order.
        scores: shape of the scores, ``[..., queries, keys]``.
    """

    nodes: tuple[NodeProto, ...]
    scores: Shape

    @property
    def nbytes(self) -> int:
        """Bytes of the scores in float32."""
        return int(np.prod(self.scores)) * 4

    @property
    def axis(self) -> int:
        """The axis to cut, from the end: that of queries, or a longer one of windows."""
        rank = len(self.scores)
        return max(range(-2, -rank - 1, -1), key=lambda axis: self.scores[axis])


def cut_attention(model: ModelProto, limit: int = SCORES_LIMIT) -> int:
    """Cut attention whose scores take more than ``limit`` bytes, in place.

    A graph whose shapes are unknown stays as it is.

    Returns:
        How many were cut.
    """
    graph = ShapedGraph(model)
    large = (entry for entry in find_attention(graph) if entry.nbytes > limit)
    found = [entry for entry in large if entry.scores[entry.axis] > 1]
    for index, entry in enumerate(found):
        _Cut(graph, entry, limit, f"strips{index}").apply()
    if found:
        graph.remove_unread()
        logger.debug("%d attentions in strips of at most %d bytes", len(found), limit)
    return len(found)


def find_attention(graph: ShapedGraph) -> Iterator[AttentionNodes]:
    """Softmax over the last axis between two products, perhaps scaled and biased."""
    for node in graph.graph.node:
        shape = graph.shapes.get(node.output[0], ()) if node.op_type == "Softmax" else ()
        if len(shape) > 2 and _axis(node) in (-1, len(shape) - 1):
            nodes = _around(graph, node, shape)
            if nodes is not None:
                yield AttentionNodes(nodes, shape)


def _axis(node: NodeProto) -> int:
    return next((entry.i for entry in node.attribute if entry.name == "axis"), -1)


def _around(graph: ShapedGraph, softmax: NodeProto, scores: Shape) -> tuple[NodeProto, ...] | None:
    """An attention's nodes, ``None`` where something else surrounds the softmax."""
    after = _only_reader(graph, softmax.output[0])
    if after is None or after.op_type != "MatMul" or after.input[0] != softmax.output[0]:
        return None
    nodes = [after, softmax]
    while len(nodes) == 2 or nodes[-1].op_type != "MatMul":
        before = _scores_before(graph, nodes[-1], scores)
        if before is None:
            return None
        nodes.append(before)
    fits = graph.shapes.get(nodes[-1].input[0], ())[:-1] == scores[:-1]
    result = graph.shapes.get(after.output[0], ())[:-1] == scores[:-1]
    return tuple(map(_copy, reversed(nodes))) if fits and result else None


def _copy(node: NodeProto) -> NodeProto:
    """Outlives changes of the graph."""
    made = NodeProto()
    made.CopyFrom(node)
    return made


def _scores_before(graph: ShapedGraph, node: NodeProto, scores: Shape) -> NodeProto | None:
    """What writes the scores that a node reads, if nothing else reads them."""
    for name in node.input:
        writer = graph.writers.get(name)
        if writer is None or writer.domain or writer.op_type not in (*_SCALING, "MatMul"):
            continue
        if graph.shapes.get(name) == scores and _only_reader(graph, name) is not None:
            return writer
    return None


def _only_reader(graph: ShapedGraph, name: str) -> NodeProto | None:
    readers = graph.readers.get(name, [])
    return readers[0] if len(readers) == 1 and name not in graph.outputs else None


class _Cut:
    """One attention on its way into strips."""

    def __init__(
        self, graph: ShapedGraph, attention: AttentionNodes, limit: int, label: str
    ) -> None:
        self.graph, self.nodes, self.axis = graph, attention.nodes, attention.axis
        self.extent, self.label = attention.scores[self.axis], label
        self.sizes = _sizes(self.extent, attention.nbytes, limit, self.axis)
        self.inner = {name for node in self.nodes for name in node.output}

    def apply(self) -> None:
        """Put the strips, and a node that joins their results, where the last product stood."""
        operands = list(dict.fromkeys(name for node in self.nodes for name in self.cut_of(node)))
        lengths = self.graph.constant(f"{self.label}.sizes", np.array(self.sizes, np.int64))
        made = [
            helper.make_node(
                "Split",
                [name, lengths],
                self.parts(name),
                f"{self.label}.{name}",
                axis=self._axis_of(name),
            )
            for name in operands
        ]
        for index in range(len(self.sizes)):
            made += [self.strip(node, index, {*operands, *self.inner}) for node in self.nodes]
        result = self.nodes[-1].output[0]
        axis = self._axis_of(result)
        name = f"{self.label}.joined"
        made.append(helper.make_node("Concat", self.parts(result), [result], name, axis=axis))
        self._replace(made)

    def cut_of(self, node: NodeProto) -> list[str]:
        """Inputs from outside that have a part for every strip.

        Keys and values have rows of their own on the axis of queries.
        """
        names = node.input
        if self.axis == -2 and node.op_type == "MatMul":
            names = names[:1]
        shapes = {name: self.graph.shapes.get(name, ()) for name in names if name not in self.inner}
        return [
            name
            for name, shape in shapes.items()
            if len(shape) >= -self.axis and shape[self.axis] == self.extent
        ]

    def parts(self, name: str) -> list[str]:
        """A tensor's names in the strips."""
        return [f"{self.label}.{name}.{index}" for index in range(len(self.sizes))]

    def strip(self, node: NodeProto, index: int, cut: Collection[str]) -> NodeProto:
        """A node's copy for one strip."""
        made = _copy(node)
        made.name = f"{self.label}.{node.name}.{index}"
        for names in (made.input, made.output):
            for place, name in enumerate(names):
                if name in cut:
                    names[place] = f"{self.label}.{name}.{index}"
        return made

    def _axis_of(self, name: str) -> int:
        return len(self.graph.shapes[name]) + self.axis

    def _replace(self, made: list[NodeProto]) -> None:
        nodes: list[NodeProto] = []
        for node in self.graph.graph.node:
            if node.output[0] == self.nodes[-1].output[0]:
                nodes += made
            elif node.output[0] not in self.inner:
                nodes.append(node)
        kept = [_copy(node) for node in nodes]
        del self.graph.graph.node[:]
        self.graph.graph.node.extend(kept)
        self.graph.update()


def _sizes(extent: int, nbytes: int, limit: int, axis: int) -> list[int]:
    """Extents of the strips."""
    each = max(1, extent * limit // nbytes)
    if axis == -2 and each > ROWS:
        each -= each % ROWS
    return [min(each, extent - start) for start in range(0, extent, each)]

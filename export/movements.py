"""Copies that a step graph does without: moves that change no order, moves that cancel.

An exporter writes ``transpose`` as Transpose, also where only axes of one element move, which every
runtime copies; and reshapes one by one. Values are the same bit by bit.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper

from streamseg.export.shaped_graph import ShapedGraph


def drop_copies(model: ModelProto) -> None:
    """Remove what moves nothing, in place; a graph whose shapes are unknown stays as it is."""
    graph = ShapedGraph(model)
    changed = True
    while changed:
        changed = False
        for rule in _RULES:
            for node in list(model.graph.node):
                changed |= rule(graph, node)
        graph.remove_unread()


def _order(node: NodeProto, rank: int) -> list[int]:
    """Axes of a Transpose."""
    given = next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), None)
    return list(reversed(range(rank))) if given is None else given


def _move_without_effect(graph: ShapedGraph, node: NodeProto) -> bool:
    """A Transpose of which only axes of one element move is a Reshape."""
    if node.op_type != "Transpose" or not graph.shapes.keys() >= {node.input[0], node.output[0]}:
        return False
    shape = graph.shapes[node.input[0]]
    moved = [axis for axis in _order(node, len(shape)) if shape[axis] != 1]
    if moved != sorted(moved):
        return False
    graph.reshape(node, node.input[0])
    return True


def _reshape_of_a_reshape(graph: ShapedGraph, node: NodeProto) -> bool:
    """The first of two reshapes says nothing."""
    if node.op_type != "Reshape" or node.output[0] not in graph.shapes:
        return False
    before = graph.writer(node.input[0], "Reshape")
    if before is None:
        return False
    graph.reshape(node, before.input[0])
    return True


def _reshape_to_the_same(graph: ShapedGraph, node: NodeProto) -> bool:
    source, result = node.input[0] if node.input else "", node.output[0]
    if node.op_type != "Reshape" or result in graph.outputs or not graph.readers.get(result):
        return False
    if source not in graph.shapes or graph.shapes.get(result) != graph.shapes[source]:
        return False
    graph.replace(result, source)
    return True


def _transpose_of_a_transpose(graph: ShapedGraph, node: NodeProto) -> bool:
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

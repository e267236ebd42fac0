"""Attention that a graph has in strips of queries, made whole for OpenVINO's CPU device.

On x86 it runs attention as one kernel that never stores all scores, so that strips only cost it
memory and time to compile: a kernel for each. The results are the same.
"""

from __future__ import annotations

from typing import Any

# From the product with values back to the product of queries and keys.
_CHAIN = (("MatMul",), ("Softmax",), ("Multiply", "Divide"), ("MatMul",))


def join_strips(model: Any) -> int:
    """Give the first strip of an attention all queries and drop the others, in place.

    Args:
        model: OpenVINO's, as read. Attention with a bias, and strips of windows, stay as they are.
    Returns:
        How many attentions were joined.
    """
    joined = 0
    for node in model.get_ordered_ops():
        strips = _strips(node)
        if strips:
            product = strips[0][-1]
            whole = product.input_value(0).get_node().input_value(0)
            product.input(0).replace_source_output(whole)
            node.output(0).replace(strips[0][0].output(0))
            joined += 1
    model.validate_nodes_and_infer_types()
    return joined


def _strips(node: Any) -> list[list[Any]]:
    """Nodes of every strip, last to first, whose results a node joins; empty for other nodes."""
    if node.get_type_name() != "Concat":
        return []
    chains = [_chain(value.get_node()) for value in node.input_values()]
    if not all(chains) or any(not _alike(chain, chains[0]) for chain in chains[1:]):
        return []
    parts = [chain[-1].input_value(0) for chain in chains]
    split = parts[0].get_node()
    if split.get_type_name() != "VariadicSplit" or split.get_output_size() != len(parts):
        return []
    cut = int(split.input_value(1).get_node().get_data()) % _rank(split)
    rows = cut == _rank(split) - 2 and node.get_axis() % _rank(node) == _rank(node) - 2
    whole = all(part == split.output(index) for index, part in enumerate(parts))
    return chains if rows and whole else []


def _chain(node: Any) -> list[Any]:
    """The nodes of one strip's attention, last to first; empty where something else is there."""
    found = []
    for kinds in _CHAIN:
        used_once = len(node.output(0).get_target_inputs()) == 1
        if node.get_type_name() not in kinds or not used_once or not _by_rows(node):
            return []
        found.append(node)
        node = node.input_value(0).get_node()
    return found


def _by_rows(node: Any) -> bool:
    """Whether each row of a node's result is made from the same row of its first input alone."""
    kind = node.get_type_name()
    if kind == "MatMul":
        return not node.get_attributes()["transpose_a"]
    if kind == "Softmax":
        return bool(node.get_attributes()["axis"] % _rank(node) == _rank(node) - 1)
    scale = list(node.get_input_partial_shape(1))
    return len(scale) < 2 or bool(scale[-2] == 1)


def _rank(node: Any) -> int:
    return len(node.get_output_partial_shape(0))


def _alike(one: list[Any], other: list[Any]) -> bool:
    """Whether two strips differ in nothing but their queries."""
    return all(
        first.get_type_name() == second.get_type_name()
        and first.get_attributes() == second.get_attributes()
        and first.input_values()[1:] == second.input_values()[1:]
        for first, second in zip(one, other, strict=True)
    )

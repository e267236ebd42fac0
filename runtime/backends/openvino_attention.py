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
    rank = len(node.get_output_partial_shape(0))
    if split.get_type_name() != "VariadicSplit" or split.get_output_size() != len(parts):
        return []
    axis = int(split.input_value(1).get_node().get_data()) % rank
    whole = all(part == split.output(index) for index, part in enumerate(parts))
    return chains if whole and axis == node.get_axis() % rank == rank - 2 else []


def _chain(node: Any) -> list[Any]:
    """The nodes of one strip's attention, last to first; empty where something else is there."""
    found = []
    for kinds in _CHAIN:
        if node.get_type_name() not in kinds:
            return []
        found.append(node)
        node = node.input_value(0).get_node()
    return found


def _alike(one: list[Any], other: list[Any]) -> bool:
    """Whether two strips differ in nothing but their queries."""
    return all(
        first.get_type_name() == second.get_type_name()
        and first.get_attributes() == second.get_attributes()
        and first.input_values()[1:] == second.input_values()[1:]
        for first, second in zip(one, other, strict=True)
    )

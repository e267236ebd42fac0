"""What the ONNX exporter's failures mean for the network, and operators that no runtime has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto

from streamseg.errors import ExportError

DOMAIN = "streamseg"
_MISSING = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>")
# Kinds of error, by class name, that stem from values that are known at run time only.
_DATA_DEPENDENT = (
    "GuardOnDataDependentSymNode",
    "UserError",
    "Unsupported",
    "DataDependentOutputException",
)
_DYNAMIC_SHAPE = ("DynamicOutputShapeException",)
# Operators without a fixed cost or shape.
_DYNAMIC_OPERATORS = frozenset(("NonZero", "Loop", "Unique", "Compress", "If"))


def explain(error: BaseException) -> str:
    """The cause of an exporter's failure, and what to change in the network."""
    chain = list(_causes(error))
    for cause in reversed(chain):
        kind, text = type(cause).__name__, _first_line(cause)
        missing = _MISSING.search(str(cause))
        if missing is not None:
            return (
                f"operator {missing[1]} has no translation to ONNX; write it with operators that "
                "have one, such as matmul, softmax, gather or interpolate"
            )
        if kind in _DYNAMIC_SHAPE:
            return f"the shape of {text}'s result depends on values; a step needs fixed shapes"
        if kind in _DATA_DEPENDENT:
            return (
                f"the step's control flow depends on the values of a tensor ({text}); a graph "
                "has no branches: compute both sides and choose with torch.where"
            )
    return _first_line(chain[-1]) or type(chain[-1]).__name__


def refuse_foreign_operators(model: ModelProto) -> None:
    """Refuse operators that ONNX Runtime's oldest supported release cannot run in a stream.

    Raises:
        ExportError: a node of another domain that the model does not define, or one whose result
            has no fixed shape.
    """
    defined = {(function.domain, function.name) for function in model.functions}
    for node in list_nodes(model.graph):
        if node.domain in ("", "ai.onnx"):
            if node.op_type in _DYNAMIC_OPERATORS:
                raise ExportError(
                    f"the graph contains {node.op_type}, whose cost or result's shape depends on "
                    "values; a step needs fixed shapes: use torch.where or a mask instead of "
                    "boolean indexing and branches"
                )
        elif (node.domain, node.op_type) not in defined:
            raise ExportError(
                f"the graph contains {node.domain}.{node.op_type}, which neither ONNX nor the "
                "model defines; export the network with operators of ONNX"
            )


def list_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node of a graph, those of its inner graphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from list_nodes(inner)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""

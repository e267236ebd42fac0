"""What the ONNX exporter's failures mean for the network, and operators that no runtime has."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx
import onnx.shape_inference
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

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
# What ONNX Runtime 1.17.3, the oldest that bundles run on, has no CPU kernel for, tried one by one:
# operator -> types of its inputs; None: of any type.
_SMALL = ("uint8", "int8", "int16", "uint16")
_NO_KERNEL: dict[str, tuple[str, ...] | None] = {
    "DeformConv": None,
    "ImageDecoder": None,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater"), _SMALL),
    **dict.fromkeys(("Max", "Min", "TopK"), _SMALL),
    **dict.fromkeys(("Conv", "ConvTranspose", "AveragePool"), ("double",)),
    "ArgMax": ("int16", "uint16", "int64"),
    "ArgMin": (*_SMALL, "int64"),
    "Where": ("int8", "int16", "uint16", "bool"),
    "Neg": ("int16",),
    "Relu": ("int16", "int64"),
    "Resize": ("int16", "uint16", "int64", "double", "bool"),
    "Pad": ("int16", "uint16"),
    "ReduceMean": ("int64",),
}
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


def refuse_missing_kernels(model: ModelProto) -> None:
    """Refuse operators that ONNX Runtime's oldest supported release has no CPU kernel for.

    Raises:
        ExportError: the operator and type, and what to change.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {
        entry.name: entry.type.tensor_type.elem_type
        for entry in (*graph.value_info, *graph.input, *graph.output)
    }
    kinds.update({entry.name: entry.data_type for entry in graph.initializer})
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _NO_KERNEL:
            continue
        missing = _NO_KERNEL[node.op_type]
        # The condition of Where, and the shapes of others, are not what the kernel is for.
        read = node.input[1 if node.op_type == "Where" else 0]
        kind = TensorProto.DataType.Name(kinds.get(read, 0)).lower()
        if missing is None or kind in missing:
            of = "" if missing is None else f" of {kind}"
            advice = (
                "write it with other operators"
                if missing is None
                else "convert its inputs with .float() or .int() first"
            )
            raise ExportError(
                f"the graph contains {node.op_type}{of}, for which ONNX Runtime 1.17.3, the oldest "
                f"that bundles run on, has no CPU kernel; {advice}"
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

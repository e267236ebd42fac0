"""A step graph cut at its windowed operators: stretches of standard nodes, and kernels between.

A runtime whose ONNX Runtime takes no custom operators (the browser's) runs each stretch as a
session of its own and the operators by other means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from streamseg.errors import ExportError
from streamseg.plugins.table import (
    ATTENTION,
    CAUSAL_CONV,
    DOMAIN,
    GEOMETRY,
    MAMBA_LAYER,
    SELECTIVE_SCAN,
)

CONSTANTS = {
    operator.name: tuple(operator.input_names[i] for i in operator.positions("weight"))
    for operator in (CAUSAL_CONV, SELECTIVE_SCAN)
}
_FUSED = (ATTENTION.name, MAMBA_LAYER.name)
OPERANDS = {operator.name: operator.input_names for operator in (CAUSAL_CONV, SELECTIVE_SCAN)}


@dataclass(frozen=True)
class SessionPart:
    """A stretch of standard nodes.

    Attributes:
        model: complete ONNX model; ``UpsampleArgmax`` keeps its function.
        inputs: names that come from the frame, the state or earlier parts.
        outputs: names that later parts, or the graph's consumers, need.
    """

    model: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class KernelPart:
    """One windowed operator.

    Attributes:
        operator: its name in the ``streamseg`` domain.
        geometry: its attributes.
        inputs: names of its maps and its state, in the operator's order, constants left out.
        outputs: names of the map and the state that it writes.
        constants: operand name -> array, in the operator's order.
    """

    operator: str
    geometry: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = field(repr=False)


Part = SessionPart | KernelPart


def split_graph(model: ModelProto) -> list[Part]:
    """Cut ``model`` at its windowed operators, in an order in which its parts can run.

    Each stretch holds the nodes that the next operator needs and no earlier part has computed.

    Raises:
        ExportError: maps that are not float32, or an operator with a computed constant.
    """
    return _Splitter(model).parts()


class _Splitter:
    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._constants = {entry.name: entry for entry in self._graph.initializer}
        self._makers = {name: node for node in self._graph.node for name in node.output if name}
        self._order = {id(node): i for i, node in enumerate(self._graph.node)}
        self._types = _tensor_types(model)

    def parts(self) -> list[Part]:
        """Every part; the last one puts out what the graph does."""
        fused = [node.name for node in self._graph.node if node.op_type in _FUSED]
        if fused:
            raise ExportError(
                f"the graph has fused operators ('{fused[0]}'), expected their parts: export the "
                "checkpoint with --precision fp32"
            )
        kernels = [node for node in self._graph.node if _is_kernel(node)]
        wanted: list[tuple[Sequence[str], NodeProto | None]] = [
            (self._operands(node), node) for node in kernels
        ]
        wanted.append(([entry.name for entry in self._graph.output], None))
        placed: set[int] = {id(node) for node in kernels}
        stretches: list[tuple[list[NodeProto], NodeProto | None]] = []
        for names, kernel in wanted:
            nodes = self._needed(names, placed)
            placed |= {id(node) for node in nodes}
            stretches.append((nodes, kernel))
        return [part for i in range(len(stretches)) for part in self._build(stretches, i)]

    def _operands(self, node: NodeProto) -> list[str]:
        names = node.input[: len(OPERANDS[node.op_type])]
        return [name for name in names if name not in self._constants]

    def _needed(self, names: Sequence[str], placed: set[int]) -> list[NodeProto]:
        """Nodes behind ``names`` that no part holds yet, in the graph's order."""
        found: dict[int, NodeProto] = {}
        waiting = list(names)
        while waiting:
            node = self._makers.get(waiting.pop())
            if node is None or id(node) in placed or id(node) in found:
                continue
            found[id(node)] = node
            waiting.extend(_used_names(node))
        return sorted(found.values(), key=lambda node: self._order[id(node)])

    def _build(
        self, stretches: list[tuple[list[NodeProto], NodeProto | None]], index: int
    ) -> Iterator[Part]:
        nodes, kernel = stretches[index]
        if nodes:
            later = {entry.name for entry in self._graph.output}
            later |= {name for _, k in stretches[index:] if k is not None for name in k.input}
            later |= {n for rest, _ in stretches[index + 1 :] for x in rest for n in _used_names(x)}
            yield self._session(nodes, later, f"part{index}")
        if kernel is not None:
            yield self._kernel(kernel)

    def _session(self, nodes: list[NodeProto], later: set[str], name: str) -> SessionPart:
        made = [output for node in nodes for output in node.output if output]
        used = {entry for node in nodes for entry in _used_names(node)}
        inputs = sorted(used - set(made) - set(self._constants))
        outputs = [output for output in made if output in later]
        graph = onnx.helper.make_graph(
            nodes,
            name,
            [self._value(entry) for entry in inputs],
            [self._value(entry) for entry in outputs],
            [self._constants[entry] for entry in sorted(used & set(self._constants))],
        )
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.CopyFrom(graph)
        operators = {node.op_type for node in nodes if node.domain == DOMAIN}
        kept = [function for function in model.functions if function.name in operators]
        del model.functions[:]
        model.functions.extend(kept)
        onnx.checker.check_model(model)
        return SessionPart(model, tuple(inputs), tuple(outputs))

    def _value(self, name: str) -> onnx.ValueInfoProto:
        if name not in self._types:
            raise ExportError(f"the type of '{name}' in the graph cannot be inferred")
        return self._types[name]

    def _kernel(self, node: NodeProto) -> KernelPart:
        operands = dict(zip(OPERANDS[node.op_type], node.input, strict=False))
        constants = {}
        for operand in CONSTANTS[node.op_type]:
            tensor = self._constants.get(operands[operand])
            if tensor is None:
                raise ExportError(f"'{operand}' of {node.op_type} is not a constant of the graph")
            constants[operand] = np.asarray(numpy_helper.to_array(tensor), np.float32)
        for name in (*self._operands(node), node.output[0]):
            kind = self._value(name).type.tensor_type.elem_type
            if kind != TensorProto.FLOAT:
                raise ExportError(
                    f"'{name}' is {TensorProto.DataType.Name(kind).lower()}, expected float; use a "
                    "bundle in float32 or INT8"
                )
        return KernelPart(
            node.op_type,
            {entry.name: entry.i for entry in node.attribute if entry.name in GEOMETRY},
            tuple(self._operands(node)),
            tuple(node.output),
            constants,
        )


def _is_kernel(node: NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type in OPERANDS


def _used_names(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, also from inside its sub-graphs; index inputs are left out."""
    yield from (name for name in _direct_inputs(node) if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from _captured_names(graph)


def _direct_inputs(node: NodeProto) -> Sequence[str]:
    return list(node.input)[: len(OPERANDS[node.op_type]) if _is_kernel(node) else None]


def _captured_names(graph: GraphProto) -> Iterator[str]:
    own = {entry.name for entry in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    yield from (name for node in graph.node for name in _used_names(node) if name not in own)


def _tensor_types(model: ModelProto) -> dict[str, onnx.ValueInfoProto]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {
        entry.name: entry for entry in (*inferred.input, *inferred.output, *inferred.value_info)
    }

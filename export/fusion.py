"""Whole temporal layers as one operator each: ``WindowedMambaLayer`` instead of its parts.

The graph must be a float32 step graph as the exporter writes it. A layer is found from its
convolution: norm and projections before it, scan, gate and projection behind it, and the sum with
the residual. What deviates is refused, so no layer is fused by guess.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, NodeProto, helper, numpy_helper

from streamseg.errors import ExportError
from streamseg.export.lowering import LAYER_FUNCTION
from streamseg.plugins.table import (
    ATTENTION,
    CAUSAL_CONV,
    DOMAIN,
    GEOMETRY,
    MAMBA_LAYER,
    PRECISIONS,
    SELECTIVE_SCAN,
)

_NORM = ("Mul", "Div", "Sqrt", "Add", "ReduceMean", "Pow")
_EPSILON = 1e-5
# Precision of an export -> of the layers' products.
LAYER_PRECISIONS = {"bf16": "bf16", "int8-dynamic": "int8"}
# Fused operators by what they compute, as the manifest names it.
FUSED_PARTS = {"temporal": MAMBA_LAYER, "attention": ATTENTION}


def fuse_layers(model: ModelProto, precision: str) -> ModelProto:
    """A copy of ``model`` with every temporal layer as one node; unchanged where it has none.

    Args:
        model: a float32 step graph with its lowerings; not modified.
        precision: of the layers' products: ``fp32``, ``bf16`` or ``int8``.
    Raises:
        ExportError: a temporal layer differs from what the operator computes.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"precision is '{precision}', expected one of: {', '.join(PRECISIONS)}")
    fused = ModelProto()
    fused.CopyFrom(model)
    graph = _Graph(fused)
    convs = [node for node in fused.graph.node if node.op_type == CAUSAL_CONV.name]
    if not convs:
        return fused
    made = {}
    for conv in convs:
        node = _layer_node(graph, conv, PRECISIONS.index(precision))
        made[node.output[0]] = node
    _replace(fused, made)
    fused.functions.append(onnx.parser.parse_function(LAYER_FUNCTION))
    onnx.checker.check_model(fused)
    return fused


class _Graph:
    """Look-ups in a graph, each with an error that says what was expected."""

    def __init__(self, model: ModelProto) -> None:
        self.producers: dict[str, NodeProto] = {
            name: node for node in model.graph.node for name in node.output
        }
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def producer(self, name: str, *kinds: str) -> NodeProto:
        node = self.producers.get(name)
        if node is None or node.op_type not in kinds:
            got = "an input" if node is None else f"{node.op_type} '{node.name}'"
            raise ExportError(f"tensor '{name}' comes from {got}, expected {' or '.join(kinds)}")
        return node

    def reader(self, name: str, kind: str) -> NodeProto:
        found = self.readers.get(name, [])
        if [node.op_type for node in found] != [kind]:
            kinds = ", ".join(node.op_type for node in found) or "nothing"
            raise ExportError(f"tensor '{name}' is read by {kinds}, expected one {kind}")
        return found[0]

    def weight(self, name: str) -> str:
        if name not in self.constants:
            raise ExportError(f"weight '{name}' is computed in the graph, expected a constant")
        return name

    def product(self, name: str) -> tuple[str, str]:
        """Activation and weight of the MatMul that writes ``name``."""
        node = self.producer(name, "MatMul")
        return node.input[0], self.weight(node.input[1])

    def scalar(self, names: Iterable[str]) -> float:
        for name in names:
            if name in self.constants:
                return float(numpy_helper.to_array(self.constants[name]).reshape(-1)[0])
        raise ExportError("the epsilon of a norm is computed in the graph, expected a constant")


def _layer_node(graph: _Graph, conv: NodeProto, precision: int) -> NodeProto:
    normed, u_proj = graph.product(conv.input[0])
    x, norm = _norm(graph, normed)
    scan = _scan_of(graph, conv.output[0])
    operands = dict(zip(SELECTIVE_SCAN.input_names, scan.input, strict=False))
    gated, z_proj = graph.product(operands["z"])
    if gated != normed:
        raise ExportError(f"the gate of '{scan.name}' reads '{gated}', expected '{normed}'")
    low, dt_proj = graph.product(operands["dt"])
    x_proj = _input_projection(graph, (low, operands["B"], operands["C"]), conv.output[0])
    out = graph.reader(scan.output[0], "MatMul")
    add = graph.reader(out.output[0], "Add")
    if x not in add.input:
        raise ExportError(f"'{add.name}' adds no residual of '{conv.name}', expected '{x}'")
    _same_geometry(conv, scan)
    inputs = {
        **{"x": x, "norm": norm, "u_proj": u_proj, "z_proj": z_proj},
        **{"conv_weight": conv.input[1], "conv_bias": conv.input[2], "dt_proj": dt_proj},
        **{"dt_bias": operands["dt_bias"], "A": operands["A"], "x_proj": x_proj},
        **{"skip": operands["skip"], "out_proj": graph.weight(out.input[1])},
        **{"conv_state": conv.input[3], "scan_state": operands["state"]},
    }
    for position in MAMBA_LAYER.positions("weight"):
        graph.weight(inputs[MAMBA_LAYER.input_names[position]])
    names = [inputs[name] for name in MAMBA_LAYER.input_names]
    node: NodeProto = helper.make_node(
        MAMBA_LAYER.name,
        [*names, *conv.input[len(CAUSAL_CONV.inputs) :]],
        [add.output[0], conv.output[1], scan.output[1]],
        name=f"{conv.name}.layer",
        domain=DOMAIN,
    )
    attributes = {**_geometry(conv), "precision": precision}
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def _norm(graph: _Graph, name: str) -> tuple[str, str]:
    """Input and weight of the RMSNorm that writes ``name``."""
    scale = graph.producer(name, "Mul")
    weight = next((entry for entry in scale.input if entry in graph.constants), "")
    quotient = graph.producer(next(entry for entry in scale.input if entry != weight), "Div")
    root = graph.producer(quotient.input[1], "Sqrt")
    total = graph.producer(root.input[0], "Add")
    epsilon = graph.scalar(total.input)
    mean = next(entry for entry in total.input if entry not in graph.constants)
    square = graph.producer(graph.producer(mean, "ReduceMean").input[0], "Pow", "Mul")
    if square.input[0] != quotient.input[0] or not np.isclose(epsilon, _EPSILON, rtol=1e-3):
        raise ExportError(
            f"the norm that writes '{name}' has epsilon {epsilon:g}, expected RMSNorm with "
            f"{_EPSILON:g}"
        )
    return quotient.input[0], graph.weight(weight)


def _scan_of(graph: _Graph, name: str) -> NodeProto:
    found = [node for node in graph.readers[name] if node.op_type == SELECTIVE_SCAN.name]
    if len(found) != 1 or found[0].input[0] != name:
        raise ExportError(f"'{name}' is read by {len(found)} scans, expected one, as its u")
    return found[0]


def _input_projection(graph: _Graph, parts: tuple[str, str, str], source: str) -> str:
    """Weight of the product whose three pieces are the step size's input, B and C."""
    splits = [graph.producer(part, "Split") for part in parts]
    if any(node is not splits[0] for node in splits) or tuple(splits[0].output) != parts:
        raise ExportError(f"{', '.join(parts)} are not the three parts of one Split")
    activation, weight = graph.product(splits[0].input[0])
    if activation != source:
        raise ExportError(f"x_proj reads '{activation}', expected '{source}'")
    return weight


def _geometry(node: NodeProto) -> dict[str, int]:
    values = {entry.name: entry.i for entry in node.attribute}
    return {name: values[name] for name in GEOMETRY}


def _same_geometry(conv: NodeProto, scan: NodeProto) -> None:
    if _geometry(conv) != _geometry(scan):
        raise ExportError(f"'{conv.name}' and '{scan.name}' have different windows")


def _replace(model: ModelProto, made: dict[str, NodeProto]) -> None:
    """Put each layer where its sum stood and drop what only the old nodes read."""
    graph = model.graph
    parts = (CAUSAL_CONV.name, SELECTIVE_SCAN.name)
    nodes = [made.get(node.output[0], node) for node in graph.node if node.op_type not in parts]
    needed = {entry.name for entry in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [entry for entry in graph.initializer if entry.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    written = {name for node in graph.node for name in node.output}
    infos = [entry for entry in graph.value_info if entry.name in written]
    del graph.value_info[:]
    graph.value_info.extend(infos)

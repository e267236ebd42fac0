"""Which layers of a step graph become INT8, and what they are called."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto

from streamseg.errors import ExportError

LayerKind = Literal["linear", "conv"]

_SCAN = "WindowedSelectiveScan"
_CONV = "WindowedCausalConv"
# Trailing inputs of a scan node that come from projections; see docs/ops.md.
_SCAN_DT, _SCAN_Z = 1, 7
# A Conv gains file size from INT8 but no time on CPUs: ONNX Runtime multiplies in INT8 only where
# the output is quantised too, and quantised weights cost it its blocked layout. So small ones are
# left alone; this is the share of the graph's weights from which one is worth it.
_CONV_SHARE = 0.01
# What stands between the classifier and the outputs.
_PASSING = frozenset(
    ("Resize", "UpsampleArgmax", "ArgMax", "Cast", "Transpose", "Reshape", "Squeeze", "Add")
)


@dataclass(frozen=True)
class Layer:
    """A Linear or Conv that becomes INT8.

    Attributes:
        name: as the checkpoint calls it where the graph still has it, else the node's.
        node: the node's name.
        kind: ``linear`` (MatMul with a constant) or ``conv``.
        source: tensor that its activations come in by.
        weight: initialiser of its weights.
        axis: output-channel axis of the weight.
    """

    name: str
    node: str
    kind: LayerKind
    source: str
    weight: str
    axis: int


class GraphIndex:
    """Producers, consumers and initialisers of a graph, by tensor name."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.initializers: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.producer: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.output:
                self.producer[name] = node
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node)

    def is_weighted(self, node: NodeProto) -> bool:
        """Whether a node multiplies by constant weights."""
        return (
            node.op_type in ("MatMul", "Conv", "Gemm")
            and len(node.input) > 1
            and node.input[1] in self.initializers
        )


def find_layers(model: ModelProto) -> list[Layer]:
    """Linear and Conv layers that take INT8 well, in graph order.

    Left out: attention MatMuls (no constant weights), depthwise, small and the first convolutions,
    the projections that feed the selective scan (x_proj, dt_proj), and the classifier.

    Raises:
        ExportError: nodes without names, or a graph that is quantised already.
    """
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError("the graph is quantised already: calibrate the float32 bundle")
    index = GraphIndex(model)
    left_out = _first_nodes(index) | _classifier_nodes(index)
    least = _CONV_SHARE * sum(_size(tensor) for tensor in index.initializers.values())
    layers = []
    for node in model.graph.node:
        if not index.is_weighted(node) or node.name in left_out or _feeds_scan(index, node):
            continue
        if not node.name:
            raise ExportError(f"the node that writes {node.output[0]} has no name")
        weight = index.initializers[node.input[1]]
        kind: LayerKind
        if node.op_type == "MatMul" and len(weight.dims) == 2:
            kind, axis = "linear", 1
        elif _is_worthwhile_conv(node, weight, least):
            kind, axis = "conv", 0
        else:
            continue
        name = _layer_name(index, node)
        layers.append(Layer(name, node.name, kind, node.input[0], weight.name, axis))
    return layers


def _size(tensor: TensorProto) -> int:
    """Values of a float initialiser; index tables are not weights."""
    return math.prod(tensor.dims) if tensor.data_type == TensorProto.FLOAT else 0


def _is_worthwhile_conv(node: NodeProto, weight: TensorProto, least: float) -> bool:
    return node.op_type == "Conv" and _attribute(node, "group", 1) == 1 and _size(weight) >= least


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _first_nodes(index: GraphIndex) -> set[str]:
    """Weighted nodes that see pixels: reached from ``frame`` without passing another."""
    found, queue, seen = set(), ["frame"], {"frame"}
    while queue:
        for node in index.consumers[queue.pop()]:
            if index.is_weighted(node):
                found.add(node.name)
                continue
            for name in node.output:
                if name not in seen:
                    seen.add(name)
                    queue.append(name)
    return found


def _classifier_nodes(index: GraphIndex) -> set[str]:
    """Weighted nodes whose result is only resized and compared: reached back from the outputs."""
    found: set[str] = set()
    queue = [entry.name for entry in index.model.graph.output if not entry.name.endswith(".out")]
    while queue:
        node = index.producer.get(queue.pop())
        if node is None:
            continue
        if index.is_weighted(node):
            found.add(node.name)
        elif node.op_type in _PASSING:
            queue.extend(node.input)
    return found


def classifier_outputs(model: ModelProto) -> list[str]:
    """Tensors that the classifier writes: the scores before they are brought to frame size.

    Raises:
        ExportError: the graph has none.
    """
    index = GraphIndex(model)
    names = _classifier_nodes(index)
    found = [node.output[0] for node in model.graph.node if node.name in names]
    if not found:
        raise ExportError("the graph has no classifier in front of its labels")
    return found


def _feeds_scan(index: GraphIndex, node: NodeProto) -> bool:
    """x_proj (reads what the causal convolution wrote) and dt_proj (is the scan's dt)."""
    source = index.producer.get(node.input[0])
    if source is not None and source.op_type == _CONV:
        return True
    return any(
        after.op_type == _SCAN and after.input[_SCAN_DT] == node.output[0]
        for after in index.consumers[node.output[0]]
    )


def _layer_name(index: GraphIndex, node: NodeProto) -> str:
    for name in _bias_names(index, node):
        return _clean(name.removesuffix(".bias"))
    weight = str(node.input[1])
    if weight.endswith(".weight"):
        return _clean(weight.removesuffix(".weight"))
    for after in index.consumers[node.output[0]]:
        if after.op_type == _CONV:
            return f"{after.output[1].removesuffix('.conv.out')}.in_proj.x"
        if after.op_type == _SCAN and after.input[_SCAN_Z] == node.output[0]:
            return f"{after.output[1].removesuffix('.scan.out')}.in_proj.z"
    source = index.producer.get(node.input[0])
    if source is not None and source.op_type == _SCAN:
        return f"{source.output[1].removesuffix('.scan.out')}.out_proj"
    return str(node.name)


def _bias_names(index: GraphIndex, node: NodeProto) -> Iterator[str]:
    for after in index.consumers[node.output[0]]:
        if after.op_type == "Add":
            yield from (
                name for name in after.input if name in index.initializers and ".bias" in name
            )


def _clean(name: str) -> str:
    return name.removeprefix("model.")

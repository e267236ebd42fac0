"""A step graph for several streams: every tensor that depends on a stream has one block for each.

The blocks lie one after the other along the first axis, so that a tensor ``[1, ...]`` becomes
``[N, ...]`` and one whose first axis counts windows becomes ``[N * windows, ...]``. Shapes that the
graph holds as constants are rewritten; a node that would mix the blocks is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.checker
from onnx import ModelProto, NodeProto, TensorShapeProto, numpy_helper

from streamseg.errors import ExportError
from streamseg.export.shaped_graph import Shape, ShapedGraph
from streamseg.plugins.table import DOMAIN, OPERATORS

_ELEMENTWISE = frozenset(
    ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Mod", "And", "Or", "Not", "Xor")
    + ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Neg", "Abs", "Sign", "Exp")
    + ("Log", "Sqrt", "Reciprocal", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Erf", "Gelu")
    + ("Softplus", "HardSigmoid", "HardSwish", "Clip", "Cast", "Identity", "Floor", "Ceil", "Round")
    + ("Sin", "Cos", "IsNaN", "Elu", "Selu", "Celu", "Softsign", "Mish")
    + ("QuantizeLinear", "DequantizeLinear")
)
# The first axis of the first input is the batch; the other inputs are constants.
_LAYERS = frozenset(
    ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    + ("BatchNormalization", "InstanceNormalization", "GroupNormalization", "DepthToSpace")
    + ("SpaceToDepth",)
)
# Nodes that work along axes, which must not be the first one.
_AXES = frozenset(
    ("Softmax", "LogSoftmax", "LayerNormalization", "ArgMax", "ArgMin", "CumSum")
    + ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")
    + ("ReduceSumSquare", "Concat", "Split", "Slice", "Gather")
)
_SHAPING = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))


def batch_graph(model: ModelProto, count: int) -> ModelProto:
    """A step graph of one stream as one of ``count`` streams.

    Args:
        model: inputs and outputs ``[1, ...]``; not modified.
        count: streams N.
    Returns:
        The same inputs and outputs with a first axis of N.
    Raises:
        ExportError: a node would mix the streams, or is of a kind that is not known to keep them
            apart.
    """
    made = ModelProto()
    made.CopyFrom(model)
    GraphBatcher(made, count).apply()
    check_batched(made, str(count))
    return made


def check_batched(model: ModelProto, count: str) -> None:
    """Raise ExportError where ONNX finds shapes in a rewritten graph that disagree."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        text = str(error).splitlines()[0][:200]
        raise ExportError(f"the graph cannot take {count} streams at once: {text}") from error


class GraphBatcher:
    """Walks the nodes once; ``shapes`` are those of the graph that is rewritten.

    Args:
        model: rewritten in place.
        count: streams of the result.
        streams: streams of the graph now.
    """

    def __init__(self, model: ModelProto, count: int, streams: int = 1) -> None:
        self.model, self.count, self.present = model, count, streams
        self.shaped = ShapedGraph(model)
        self.shapes = self.shaped.shapes
        self.values = {entry.name: entry for entry in model.graph.initializer}
        self.streams: set[str] = set()
        rules: dict[str, Callable[[NodeProto], None]] = {
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
            **dict.fromkeys(_LAYERS, self._layer),
            **dict.fromkeys(_AXES, self._along_axes),
            **dict.fromkeys(_SHAPING, self._reshape),
            "MatMul": self._product,
            "Gemm": self._gemm,
            "Transpose": self._transpose,
            "Resize": self._resize,
            "Expand": self._expand,
            "Pad": self._pad,
            "GridSample": self._sample,
            "GatherElements": self._gather_elements,
        }
        self.rules = rules

    def apply(self) -> None:
        """Rewrite the nodes and the shapes of tensors.

        Raises:
            ExportError: a node would mix the streams, or is not known to keep them apart.
        """
        graph = self.model.graph
        for entry in (*graph.input, *graph.output):
            dim = entry.type.tensor_type.shape.dim[0]
            if dim.dim_value != self.present:
                raise ExportError(
                    f"'{entry.name}' begins with an axis of {dim.dim_value}, expected "
                    f"{self.present}: the axis of streams"
                )
            self._set_first(dim)
        self.streams.update(entry.name for entry in graph.input)
        for node in list(graph.node):
            if self.streams.isdisjoint(node.input) and not _has_body(node):
                continue
            rule = self._operator if node.domain == DOMAIN else self.rules.get(node.op_type)
            if rule is None or node.domain not in ("", DOMAIN):
                raise self._refuse(node, "is not known to keep streams apart")
            for name in (*node.input, *node.output):
                if name and name not in self.shapes:
                    raise self._refuse(node, f"has '{name}', whose shape is unknown")
            rule(node)
            self.streams.update(node.output)
        missing = [entry.name for entry in graph.output if entry.name not in self.streams]
        if missing:
            raise ExportError(
                f"'{missing[0]}' depends on no input: it cannot be given N streams. Export it "
                "without --batch"
            )
        for entry in graph.value_info:
            if entry.name in self.streams and entry.type.tensor_type.shape.dim:
                self._set_first(entry.type.tensor_type.shape.dim[0])

    def _set_first(self, dim: TensorShapeProto.Dimension) -> None:
        """Have an axis of one stream's blocks be that of N streams."""
        dim.dim_value *= self.count

    def _refuse(self, node: NodeProto, reason: str) -> ExportError:
        return ExportError(
            f"the graph cannot take several streams at once: {node.op_type} '{node.name}' {reason}"
            ". Export it without --batch"
        )

    def _rank(self, name: str) -> int:
        return len(self.shapes[name])

    def _elementwise(self, node: NodeProto) -> None:
        """All streams' tensors lie along the result's first axis; constants are repeated."""
        result = self.shapes[node.output[0]]
        for index, name in enumerate(node.input):
            if not name:
                continue
            shape = self.shapes[name]
            leading = shape[0] if len(shape) == len(result) and shape else 1
            if name in self.streams:
                if len(shape) != len(result) or leading != result[0]:
                    raise self._refuse(node, f"spreads {list(shape)} over {list(result)}")
            elif leading != 1:
                node.input[index] = self._repeat(node, name)

    def _repeat(self, node: NodeProto, name: str) -> str:
        """A constant with a block for every stream."""
        if name not in self.values:
            raise self._refuse(node, f"reads '{name}', which is computed and the same for all")
        value = numpy_helper.to_array(self.values[name])
        return self.shaped.constant(
            f"{name}.{self.count}", np.concatenate([value] * self.count, axis=0)
        )

    def _layer(self, node: NodeProto) -> None:
        if not self.streams.isdisjoint(node.input[1:]):
            raise self._refuse(node, "has weights that depend on the stream")

    def _operator(self, node: NodeProto) -> None:
        """Our operators have the batch in front of maps, states and labels."""
        operands = OPERATORS[node.op_type].inputs
        for operand, name in zip(operands, node.input, strict=False):
            if (operand.role == "weight") == (name in self.streams):
                raise self._refuse(node, f"has '{operand.name}' of another kind than expected")

    def _product(self, node: NodeProto) -> None:
        left, right = node.input
        result = self._rank(node.output[0])
        for name, other in ((left, right), (right, left)):
            if name in self.streams:
                rows = name == left and other not in self.streams and self._rank(other) == 2
                if self._rank(name) != result or (result < 3 and not rows):
                    raise self._refuse(node, "multiplies streams with each other")
                if self.shapes[name][0] != self.shapes[node.output[0]][0]:
                    raise self._refuse(node, "spreads one stream's matrix over others")
        for index, name in enumerate(node.input):
            constant = name not in self.streams and self._rank(name) == result > 2
            if constant and self.shapes[name][0] != 1:
                node.input[index] = self._repeat(node, name)

    def _gemm(self, node: NodeProto) -> None:
        """Rows are tokens of one stream after the other."""
        flags = {entry.name: entry.i for entry in node.attribute}
        bias = self.shapes[node.input[2]] if len(node.input) > 2 else ()
        rows = len(bias) == 2 and bias[0] != 1
        if flags.get("transA") or rows or not self.streams.isdisjoint(node.input[1:]):
            raise self._refuse(node, "multiplies streams with each other")

    def _transpose(self, node: NodeProto) -> None:
        rank = self._rank(node.input[0])
        order = next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), None)
        if (order or list(reversed(range(rank))))[0] != 0:
            raise self._refuse(node, "moves the axis of streams")

    def _reshape(self, node: NodeProto) -> None:
        """Blocks stay whole, whatever a stream's shape becomes."""
        if not self.streams.isdisjoint(node.input[1:]):
            raise self._refuse(node, "has a shape that depends on the stream")
        self._set_shape(node, 1, self.shapes[node.output[0]])
        del node.input[2:], node.attribute[:]
        node.op_type = "Reshape"

    def _set_shape(self, node: NodeProto, index: int, shape: Shape) -> None:
        """Have an input be the constant ``shape`` of N streams."""
        if not shape:
            raise self._refuse(node, "makes one number of a stream")
        whole = (self.count * shape[0], *shape[1:])
        name = self.shaped.constant("shape." + ".".join(map(str, whole)), np.array(whole, np.int64))
        if len(node.input) == index:
            node.input.append(name)
        node.input[index] = name

    def _resize(self, node: NodeProto) -> None:
        if any(entry.name == "axes" for entry in node.attribute):
            raise self._refuse(node, "names axes")
        if len(node.input) > 3 and node.input[3]:
            self._set_shape(node, 3, self.shapes[node.output[0]])
        elif self.shapes[node.input[0]][0] != self.shapes[node.output[0]][0]:
            raise self._refuse(node, "resizes the axis of streams")

    def _expand(self, node: NodeProto) -> None:
        source, result = self.shapes[node.input[0]], self.shapes[node.output[0]]
        if node.input[0] not in self.streams or len(source) != len(result):
            raise self._refuse(node, "spreads a stream over others")
        if source[0] != result[0]:
            raise self._refuse(node, "spreads a stream over others")
        self._set_shape(node, 1, result)

    def _pad(self, node: NodeProto) -> None:
        if len(node.input) > 3 and node.input[3]:
            raise self._refuse(node, "names axes")
        if self.shapes[node.input[0]][0] != self.shapes[node.output[0]][0]:
            raise self._refuse(node, "pads the axis of streams")

    def _sample(self, node: NodeProto) -> None:
        image, grid = node.input
        if image not in self.streams:
            raise self._refuse(node, "samples a constant")
        if grid not in self.streams:
            node.input[1] = self._repeat(node, grid)

    def _gather_elements(self, node: NodeProto) -> None:
        """Each stream's indices choose among its own entries."""
        data, indices = node.input
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        if axis % self._rank(data) == 0:
            raise self._refuse(node, "works along the axis of streams")
        for index, name in enumerate((data, indices)):
            if name not in self.streams:
                node.input[index] = self._repeat(node, name)
        if self.shapes[data][0] != self.shapes[indices][0]:
            raise self._refuse(node, "chooses from other streams")

    def _along_axes(self, node: NodeProto) -> None:
        rank = self._rank(node.input[0])
        if 0 in [axis % max(rank, 1) for axis in self._axes(node)]:
            raise self._refuse(node, "works along the axis of streams")
        if node.op_type == "Concat":
            for index, name in enumerate(node.input):
                if name not in self.streams:
                    node.input[index] = self._repeat(node, name)
        elif node.input[0] not in self.streams or not self.streams.isdisjoint(node.input[1:]):
            raise self._refuse(node, "chooses by what depends on the stream")

    def _axes(self, node: NodeProto) -> list[int]:
        """Axes that a node works along."""
        given = {entry.name: entry for entry in node.attribute}
        rank = self._rank(node.input[0])
        if node.op_type == "LayerNormalization":
            first = given["axis"].i if "axis" in given else -1
            return list(range(first % rank, rank))
        if "axis" in given:
            return [given["axis"].i]
        if "axes" in given:
            return list(given["axes"].ints)
        place = {"Slice": 3, "CumSum": 1}.get(node.op_type, 1)
        if node.op_type.startswith("Reduce") or node.op_type in ("Slice", "CumSum"):
            if len(node.input) > place and node.input[place] in self.values:
                axes = numpy_helper.to_array(self.values[node.input[place]])
                return [int(axis) for axis in np.atleast_1d(axes)]
            return [0]  # all axes, or unknown ones
        return [-1] if node.op_type in ("Softmax", "LogSoftmax") else [0]


def _has_body(node: NodeProto) -> bool:
    """Loops and branches read tensors that are not among their inputs."""
    return any(entry.HasField("g") or entry.graphs for entry in node.attribute)

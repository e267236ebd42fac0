"""A float32 step graph in float16, with float32 islands; needs onnx and NumPy, no torch.

Every tensor of the result says its type, so that strongly typed builders have nothing to choose.
Products, and what lies between them, become float16; weights are stored so. In float32 stay:

* the statistics of norms, softmax, and the state, taps, A, bias and skip of our operators; a
  LayerNormalization reads and writes float16 and says itself that it computes in float32
  (``stash_type``), so that no cast stands around it;
* the frame until the first product: 8 bits fit float16, their normalised values less well;
* coordinates that something is sampled at: float16 is half a pixel off near column 1024;
* the scores behind the classifier, where labels are chosen.

Key frames and rings of features become float16: float16 layers wrote them and read them, so nothing
is lost. Carried state is summed up over thousands of frames and stays float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnx.shape_inference
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from streamseg.errors import ExportError
from streamseg.plugins.table import DOMAIN, OPERATORS
from streamseg.runtime.bundle.state import StateSpec

PRECISIONS = ("fp32", "fp16")
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_HALF_STATE = ("ring", "key")

_PRODUCTS = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose"))
# Float32, and so is what is computed from their results, up to the next product.
_STATISTICS = frozenset(
    ("Pow", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "Sqrt", "Reciprocal")
    + ("Exp", "Log", "Softplus", "CumSum")
)
# These compute in the type of what they read. All that is in no list is float32.
_FOLLOWING = frozenset(
    ("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Max", "Min", "Clip", "Where", "Identity")
    + ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Erf", "HardSigmoid", "HardSwish")
    + ("Concat", "Split", "Slice", "Pad", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
    + ("Flatten", "Expand", "Tile", "Gather", "GatherND", "GatherElements", "ReduceMax")
    + ("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "DepthToSpace", "SpaceToDepth")
    + ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
    + ("QuantizeLinear", "DequantizeLinear")
)
# Inputs of our operators that are maps; the others stay float32.
_MAP_INPUTS = {
    name: operator.positions("map")
    for name, operator in OPERATORS.items()
    if operator.positions("state")
}
# Inputs whose values float16 would spoil, however they came about: coordinates and final scores.
_EXACT_INPUTS = {"GridSample": (1,), "UpsampleArgmax": (0,), "ArgMax": (0,)}
# Inputs that are float32 by ONNX's own definition.
_FIXED_INPUTS = {"Resize": (1, 2)}


def half_state(table: tuple[StateSpec, ...]) -> tuple[StateSpec, ...]:
    """The state table of a float16 graph: rings and key frames float16, the rest as it was."""
    return tuple(
        replace(spec, dtype="float16")
        if spec.kind in _HALF_STATE and spec.dtype == "float32"
        else spec
        for spec in table
    )


def half_graph(model: ModelProto, table: tuple[StateSpec, ...]) -> ModelProto:
    """Bake float16 into a graph.

    Args:
        model: a float32 step graph, perhaps with Q/DQ; not modified.
        table: the state table of the result; its types say which states are float16.
    Raises:
        ExportError: a type is unknown, a weight is out of float16's range, or the graph is
            float16 already.
    """
    if any(entry.data_type == HALF for entry in model.graph.initializer):
        raise ExportError("the graph is float16 already")
    return _Converter(model, {spec.name for spec in table if spec.dtype == "float16"}).convert()


class _Converter:
    """Walks the nodes once and writes each in its type, with casts where types meet."""

    def __init__(self, model: ModelProto, half_states: Collection[str]) -> None:
        self.source = onnx.shape_inference.infer_shapes(model)
        self.types: dict[str, int] = {
            entry.name: entry.type.tensor_type.elem_type
            for entry in (
                *self.source.graph.value_info,
                *self.source.graph.input,
                *self.source.graph.output,
            )
        }
        self.constants = {entry.name: entry for entry in self.source.graph.initializer}
        self.types.update({name: entry.data_type for name, entry in self.constants.items()})
        self.producers = {
            name: node for node in self.source.graph.node for name in node.output if name
        }
        self.scales = {
            node.input[1]
            for node in self.source.graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        }
        self.half_states = frozenset(half_states)
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        # Tensor -> type -> name under which it is available; and the type that readers follow.
        self.versions: dict[str, dict[int, str]] = {}
        self.nominal: dict[str, int] = {}
        self.exact = self._find_exact()

    def convert(self) -> ModelProto:
        graph = self.source.graph
        outputs = {entry.name: self._interface_type(entry) for entry in graph.output}
        for entry in graph.input:
            self._define(entry.name, self._interface_type(entry), entry.name)
        for node in graph.node:
            self._convert_node(node, outputs)
        for name, kind in outputs.items():
            if self._is_float(name) and self.versions[name].get(kind) != name:
                have = next(iter(self.versions[name].values()))
                self.nodes.append(helper.make_node("Cast", [have], [name], f"{name}.cast", to=kind))
        return self._assemble()

    def _find_exact(self) -> set[int]:
        """Nodes, by id, that lead from a product to an exact input or a float32 output."""
        queue = [
            node.input[index]
            for node in self.source.graph.node
            for index in _EXACT_INPUTS.get(node.op_type, ())
        ]
        queue += [entry.name for entry in self.source.graph.output if entry.name == "logits"]
        found: set[int] = set()
        while queue:
            node = self.producers.get(queue.pop())
            if node is None or node.op_type not in _FOLLOWING or id(node) in found:
                continue
            found.add(id(node))
            queue += [name for name in node.input if name and self._is_float(name)]
        return found

    def _is_float(self, name: str) -> bool:
        if name not in self.types:
            raise ExportError(f"the type of tensor '{name}' is unknown")
        return self.types[name] == FLOAT

    def _interface_type(self, entry: onnx.ValueInfoProto) -> int:
        kind: int = entry.type.tensor_type.elem_type
        state = entry.name.removesuffix(".in").removesuffix(".out")
        ring = state.rpartition(".")[0]
        if kind == FLOAT and (state in self.half_states or ring in self.half_states):
            return HALF
        return kind

    def _define(self, name: str, kind: int, written: str) -> None:
        self.versions.setdefault(name, {})[kind] = written
        self.nominal.setdefault(name, kind)

    def _convert_node(self, source: NodeProto, outputs: dict[str, int]) -> None:
        node = NodeProto()
        node.CopyFrom(source)
        kinds = self._input_types(source)
        for index, kind in kinds.items():
            node.input[index] = self._version(source.input[index], kind)
        self.nodes.append(node)
        computed, nominal = self._output_types(source, kinds)
        for index, name in enumerate(source.output):
            if not name or not self._is_float(name):
                continue
            state = index == 1 and source.op_type in _MAP_INPUTS
            kind = FLOAT if state else computed
            written = name
            if outputs.get(name, kind) != kind:
                written = node.output[index] = _renamed(name, kind)
            self._define(name, kind, written)
            self.nominal[name] = FLOAT if state else nominal
        if source.op_type == "Cast":
            _retarget(node, computed)

    def _input_types(self, node: NodeProto) -> dict[int, int]:
        """Input index -> type, for the inputs that were float32."""
        fixed = _FIXED_INPUTS.get(node.op_type, ())
        floats = [i for i, name in enumerate(node.input) if name and self._is_float(name)]
        if node.domain == DOMAIN:
            maps = _MAP_INPUTS.get(node.op_type, ())
            return {i: HALF if i in maps else FLOAT for i in floats}
        kind = self._compute_type(node, [i for i in floats if i not in fixed])
        return {i: FLOAT if i in fixed else kind for i in floats}

    def _compute_type(self, node: NodeProto, floats: list[int]) -> int:
        if node.op_type in _PRODUCTS:
            return HALF
        if node.op_type not in _FOLLOWING and node.op_type != "Cast" and not _stashes(node):
            return FLOAT
        if id(node) in self.exact:
            return FLOAT
        read = [node.input[i] for i in floats if node.input[i] not in self.constants]
        wide = any(self.nominal[name] == FLOAT for name in read)
        return FLOAT if wide else HALF

    def _output_types(self, node: NodeProto, kinds: dict[int, int]) -> tuple[int, int]:
        """Type of the results, and the one that readers follow."""
        if node.domain == DOMAIN:
            return HALF, HALF
        if node.op_type == "Cast" and not kinds:
            return FLOAT, FLOAT  # from integers: the frame, or coordinates
        computed = next((kind for i, kind in kinds.items() if not self._is_fixed(node, i)), FLOAT)
        if node.op_type in _FOLLOWING or node.op_type in _STATISTICS or node.op_type == "Cast":
            return computed, computed
        return computed, HALF

    @staticmethod
    def _is_fixed(node: NodeProto, index: int) -> bool:
        return index in _FIXED_INPUTS.get(node.op_type, ())

    def _version(self, name: str, kind: int) -> str:
        """The tensor in a type: as it is, or by a cast that all readers share."""
        known = self.versions.setdefault(name, {})
        if kind in known:
            return known[kind]
        if name in self.constants:
            known[kind] = self._constant(name, kind)
            return known[kind]
        have = next(iter(known.values()))
        made = _renamed(name, kind)
        self.nodes.append(helper.make_node("Cast", [have], [made], f"{made}.cast", to=kind))
        known[kind] = made
        return made

    def _constant(self, name: str, kind: int) -> str:
        entry = TensorProto()
        entry.CopyFrom(self.constants[name])
        if self.versions[name]:
            entry.name = _renamed(name, kind)
        if kind == HALF:
            value = numpy_helper.to_array(self.constants[name])
            with np.errstate(over="ignore"):
                narrow = value.astype(np.float16)
            if np.isinf(narrow).sum() > np.isinf(value).sum():
                raise ExportError(
                    f"weight '{name}' reaches {np.abs(value[np.isfinite(value)]).max():.3g}, "
                    "float16 ends at 65504: this model cannot be exported in float16"
                )
            if name in self.scales and not narrow.all():
                raise ExportError(
                    f"scale '{name}' has values below 6e-8, which float16 cannot hold: build this "
                    "model as it is"
                )
            entry.CopyFrom(numpy_helper.from_array(narrow, entry.name))
        self.initializers[entry.name] = entry
        return str(entry.name)

    def _assemble(self) -> ModelProto:
        result = ModelProto()
        result.CopyFrom(self.source)
        graph = result.graph
        for entry in (*graph.input, *graph.output):
            entry.type.tensor_type.elem_type = self._interface_type(entry)
        del graph.node[:]
        graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        kept = [
            entry
            for entry in self.source.graph.initializer
            if entry.name in read and entry.name not in self.initializers
        ]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self.initializers.values()])
        infos = list(self._value_infos())
        del graph.value_info[:]
        graph.value_info.extend(infos)
        onnx.checker.check_model(result, full_check=True)
        return result

    def _value_infos(self) -> Iterator[onnx.ValueInfoProto]:
        interface = {entry.name for entry in (*self.source.graph.input, *self.source.graph.output)}
        for entry in self.source.graph.value_info:
            versions = self.versions.get(entry.name, {self.types[entry.name]: entry.name})
            for kind, name in versions.items():
                if name in interface:
                    continue
                made = onnx.ValueInfoProto()
                made.CopyFrom(entry)
                made.name = name
                made.type.tensor_type.elem_type = kind
                yield made


def _stashes(node: NodeProto) -> bool:
    """Whether a node computes its statistics in float32, whatever the type of its map."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    return (
        node.op_type == "LayerNormalization"
        and len(node.output) == 1
        and given.get("stash_type", FLOAT) == FLOAT
    )


def _renamed(name: str, kind: int) -> str:
    return f"{name}.{'half' if kind == HALF else 'wide'}"


def _retarget(node: NodeProto, kind: int) -> None:
    """Have a Cast to float32 write ``kind``."""
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = kind

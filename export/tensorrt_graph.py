"""The graph that TensorRT is given, made from a bundle's graph; needs onnx and no torch.

TensorRT's parser runs a model-local function where there is one, and looks for a plugin without
one. TensorRT 10.3, JetPack 6's, finds a plugin by the node's op type and two attributes,
``plugin_namespace`` and ``plugin_version``, and not by the node's domain. Both graphs end in
``check_operators``: what the oldest supported parser would read in another way is an error.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnx.numpy_helper
import onnx.shape_inference
from onnx import ModelProto

from streamseg.errors import ExportError
from streamseg.export.tensorrt_operators import check_operators, walk_nodes
from streamseg.plugins.table import (
    CAUSAL_CONV,
    DOMAIN,
    SELECTIVE_SCAN,
    UPSAMPLE_ARGMAX,
)

PLUGIN_VERSION = "1"
_PLUGINS = {operator.name: operator for operator in (CAUSAL_CONV, SELECTIVE_SCAN, UPSAMPLE_ARGMAX)}
_BACK = "DequantizeLinear"
_WIDE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
_MOVES = ("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Concat")


def plugin_graph(model: ModelProto) -> ModelProto:
    """A copy of ``model`` for TensorRT with our plugins: functions and index inputs stripped.

    Raises:
        ExportError: a node of our domain is not one of the plugins'.
    """
    graph = ModelProto()
    graph.CopyFrom(model)
    del graph.functions[:]
    for node in graph.graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type not in _PLUGINS:
            raise ExportError(
                f"node '{node.name}' is a {node.op_type}, which has no TensorRT plugin; available: "
                f"{', '.join(_PLUGINS)}. Build with the lowered graph instead"
            )
        del node.input[len(_PLUGINS[node.op_type].inputs) :]  # indices for the lowering
        node.attribute.extend(
            [
                onnx.helper.make_attribute("plugin_namespace", DOMAIN),
                onnx.helper.make_attribute("plugin_version", PLUGIN_VERSION),
            ]
        )
    return _adapt(graph)


def lowered_graph(model: ModelProto) -> ModelProto:
    """A copy of ``model`` in standard ops only, for TensorRT without our plugins."""
    return _adapt(onnx.inliner.inline_local_functions(model))


def _adapt(graph: ModelProto) -> ModelProto:
    _cast_before_transpose(graph)
    _widen_norms(graph)
    _name_interpolation(graph)
    _fold_shapes(graph)
    _merge_quantisers(graph)
    _cast_labels(graph)
    _drop_unused_initializers(graph)
    check_operators(graph)
    return graph


def _widen_norms(model: ModelProto) -> None:
    """Put casts around a LayerNormalization of float16, which computes in float32 by definition.

    Nothing that can be asked of TensorRT shows in which type it does; with float32 in and out there
    is one answer.
    """
    half, wide = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    known = onnx.shape_inference.infer_shapes(model).graph
    kinds = {
        entry.name: entry.type.tensor_type.elem_type for entry in (*known.value_info, *known.input)
    }
    weights = {entry.name: entry for entry in model.graph.initializer}
    cast: set[str] = set()
    nodes = []
    for node in model.graph.node:
        if node.op_type != "LayerNormalization" or kinds.get(node.input[0]) != half:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            node.input[index] = written = f"{name}.into_norm"
            if name in weights:
                weights[written] = onnx.numpy_helper.from_array(
                    onnx.numpy_helper.to_array(weights[name]).astype(np.float32), written
                )
            elif written not in cast:
                nodes.append(onnx.helper.make_node("Cast", [name], [written], to=wide))
                cast.add(written)
        narrow = node.output[0]
        node.output[0] = f"{narrow}.from_norm"
        nodes += [node, onnx.helper.make_node("Cast", [node.output[0]], [narrow], to=half)]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights.values())


def _name_interpolation(model: ModelProto) -> None:
    """Call GridSample's mode ``bilinear``, the name before opset 20 and the one parsers know.

    The parsers of TensorRT 10 and 11.1 take the nearest value for ``linear``, without a message;
    TensorRT-RTX reads either name.
    """
    for node in model.graph.node:
        if node.op_type == "GridSample":
            given = {entry.name: entry for entry in node.attribute}
            if "mode" not in given:
                node.attribute.append(onnx.helper.make_attribute("mode", "bilinear"))
            elif given["mode"].s == b"linear":
                given["mode"].s = b"bilinear"


def _fold_shapes(model: ModelProto) -> None:
    """Replace Shape by what it gives: older parsers ignore its ``start`` and ``end``."""
    graph = model.graph
    if not any(node.op_type == "Shape" for node in graph.node):
        return
    known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        entry.name: entry.type.tensor_type.shape.dim
        for entry in (*known.input, *known.value_info, *known.output)
    }
    shapes |= {
        entry.name: [onnx.TensorShapeProto.Dimension(dim_value=size) for size in entry.dims]
        for entry in known.initializer
    }
    for node in graph.node:
        axes = shapes.get(node.input[0]) if node.op_type == "Shape" else None
        if axes is None or not all(axis.HasField("dim_value") for axis in axes):
            continue
        ends = {entry.name: entry.i for entry in node.attribute}
        sizes = [axis.dim_value for axis in axes][ends.get("start", 0) : ends.get("end")]
        value = onnx.numpy_helper.from_array(np.array(sizes, np.int64))
        node.CopyFrom(onnx.helper.make_node("Constant", [], node.output, node.name, value=value))


def _merge_quantisers(model: ModelProto) -> None:
    """Leave one QuantizeLinear and DequantizeLinear for each tensor.

    A calibrated bundle has a pair for each reader, their scales a unit in the last place apart,
    which ONNX Runtime needs; TensorRT merges products such as q, k and v only behind one pair.
    """
    graph = model.graph
    scales = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    first: dict[str, onnx.NodeProto] = {}
    renamed: dict[str, str] = {}
    dropped = []
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[1] not in scales:
            continue
        kept = first.setdefault(node.input[0], node)
        if kept is node:
            continue
        if not np.allclose(scales[kept.input[1]], scales[node.input[1]], rtol=1e-5, atol=0):
            raise ExportError(
                f"tensor '{node.input[0]}' is quantised by '{kept.name}' and by '{node.name}' with "
                "different scales. Calibrate the bundle again with this version of streamseg"
            )
        (back,) = [reader for reader in readers[kept.output[0]] if reader.op_type == _BACK][:1]
        for other in readers.get(node.output[0], ()):
            renamed[other.output[0]] = back.output[0]
            dropped.append(other)
        dropped.append(node)
    gone = {node.output[0] for node in dropped}
    left = [node for node in graph.node if node.output[0] not in gone]
    for node in left:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(left)


def _cast_before_transpose(model: ModelProto) -> None:
    """Swap Transpose and Cast behind a uint8 input: TensorRT takes uint8 into nothing but a Cast.

    Other runtimes are better off with the exported order, which moves a quarter of the bytes.
    """
    graph = model.graph
    bytes_in = {
        entry.name
        for entry in graph.input
        if entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for first in graph.node:
        if first.op_type != "Transpose" or first.input[0] not in bytes_in:
            continue
        readers = [node for node in graph.node if first.output[0] in node.input]
        if [node.op_type for node in readers] != ["Cast"]:
            raise ExportError(
                f"input '{first.input[0]}' is transposed and then read by "
                f"{', '.join(node.op_type for node in readers)}; TensorRT needs one Cast there"
            )
        cast = onnx.NodeProto()
        cast.CopyFrom(readers[0])
        turn = onnx.NodeProto()
        turn.CopyFrom(first)
        cast.input[0], turn.output[0] = first.input[0], cast.output[0]
        cast.output[0] = turn.input[0] = f"{first.input[0]}.cast"
        stale = {entry.name: entry for entry in graph.value_info}
        if first.output[0] in stale:
            graph.value_info.remove(stale[first.output[0]])
        readers[0].CopyFrom(turn)
        first.CopyFrom(cast)


def _cast_labels(model: ModelProto) -> None:
    """Bring class numbers to uint8 by way of float32, the one conversion that is documented.

    The plugin writes int32 and ArgMax int64. Class numbers are below 256, so nothing is rounded.
    """
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "UpsampleArgmax"]:
        labels, wide = node.output[0], f"{node.output[0]}.int32"
        node.output[0] = wide
        _insert_after(graph, node, _cast(wide, labels, onnx.TensorProto.UINT8))
    kinds = _integers(graph)
    for node in list(graph.node):
        if _target(node) == onnx.TensorProto.UINT8 and node.input[0] in kinds:
            number = f"{node.output[0]}.float"
            index = list(graph.node).index(node)
            graph.node.insert(index, _cast(node.input[0], number, onnx.TensorProto.FLOAT))
            node.input[0] = number


def _integers(graph: onnx.GraphProto) -> set[str]:
    """Tensors that hold class numbers in a wide type, and what only moves them."""
    found: set[str] = set()
    for node in graph.node:
        wide = node.op_type in ("ArgMax", "UpsampleArgmax") or _target(node) in _WIDE
        if wide or (node.op_type in _MOVES and node.input[0] in found):
            found.add(node.output[0])
    return found


def _target(node: onnx.NodeProto) -> int:
    return int(onnx.helper.get_node_attr_value(node, "to")) if node.op_type == "Cast" else 0


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], f"{target}.cast", to=kind)


def _insert_after(graph: onnx.GraphProto, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
    graph.node.insert(list(graph.node).index(node) + 1, new)


def _drop_unused_initializers(model: ModelProto) -> None:
    graph = model.graph
    used = {name for node in walk_nodes(graph) for name in node.input}
    used.update(entry.name for entry in graph.output)
    kept = [entry for entry in graph.initializer if entry.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)

"""The graph that TensorRT is given, made from a bundle's graph; needs onnx and no torch.

TensorRT's parser runs a model-local function where there is one, and looks for a plugin where there
is none. TensorRT 10.3, JetPack 6's, finds a plugin by the node's op type and two attributes,
``plugin_namespace`` and ``plugin_version``, and not by the node's domain.
"""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import ModelProto

from streamseg.errors import ExportError
from streamseg.plugins.table import (
    CAUSAL_CONV,
    DOMAIN,
    SELECTIVE_SCAN,
    UPSAMPLE_ARGMAX,
)

PLUGIN_VERSION = "1"
_PLUGINS = {operator.name: operator for operator in (CAUSAL_CONV, SELECTIVE_SCAN, UPSAMPLE_ARGMAX)}


def plugin_graph(model: ModelProto) -> ModelProto:
    """A copy of ``model`` for TensorRT with our plugins: functions and index inputs stripped.

    Raises:
        ExportError: a node of our domain is none of the plugins'.
    """
    graph = ModelProto()
    graph.CopyFrom(model)
    del graph.functions[:]
    for node in graph.graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type not in _PLUGINS:
            raise ExportError(
                f"node '{node.name}' is a {node.op_type}, which has no TensorRT plugin; there are: "
                f"{', '.join(_PLUGINS)}. Build with the lowered graph instead"
            )
        del node.input[len(_PLUGINS[node.op_type].inputs) :]  # indices for the lowering
        node.attribute.extend(
            [
                onnx.helper.make_attribute("plugin_namespace", DOMAIN),
                onnx.helper.make_attribute("plugin_version", PLUGIN_VERSION),
            ]
        )
    _drop_unused_initializers(graph)
    _cast_before_transpose(graph)
    _cast_labels(graph)
    return graph


def lowered_graph(model: ModelProto) -> ModelProto:
    """A copy of ``model`` in standard ops only, for TensorRT without our plugins."""
    graph: ModelProto = onnx.inliner.inline_local_functions(model)
    _cast_before_transpose(graph)
    return graph


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
    """Have the plugin write int32 and a Cast follow: TensorRT hands out uint8 from nothing else."""
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "UpsampleArgmax"]:
        labels, wide = node.output[0], f"{node.output[0]}.int32"
        node.output[0] = wide
        cast = onnx.helper.make_node("Cast", [wide], [labels], to=onnx.TensorProto.UINT8)
        graph.node.insert(list(graph.node).index(node) + 1, cast)


def _drop_unused_initializers(model: ModelProto) -> None:
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    used.update(entry.name for entry in graph.output)
    kept = [entry for entry in graph.initializer if entry.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)

"""Inputs and outputs of a graph that OpenVINO compiled, compared with the manifest."""

from __future__ import annotations

from typing import Any

from streamseg.errors import BundleError
from streamseg.runtime.backends.tensors import TensorTable, graph_inputs, graph_outputs
from streamseg.runtime.bundle.manifest import Manifest

# OpenVINO's name of a type -> NumPy's.
_TYPES = {"f32": "float32", "f16": "float16", "u8": "uint8", "i32": "int32", "i64": "int64"}
# What the ONNX reader appends to the name of a graph's output.
_RESULT = "/sink_port_"


def input_names(compiled: Any) -> dict[str, Any]:
    """Port of every input by its name in the graph."""
    return {port.get_any_name(): port for port in compiled.inputs}


def result_names(compiled: Any) -> dict[str, Any]:
    """Port of every output by its name in the graph.

    Tensors of one value share their names, so that only the results' own names are unique.
    """
    return {
        port.get_node().get_friendly_name().split(_RESULT)[0]: port for port in compiled.outputs
    }


def check_interface(compiled: Any, name: str, manifest: Manifest) -> None:
    """Raise BundleError unless the graph's names, shapes and types are the manifest's."""
    graph = manifest.graphs[name]
    _check_ports(name, "input", input_names(compiled), graph_inputs(graph, manifest))
    _check_ports(name, "output", result_names(compiled), graph_outputs(graph, manifest))


def _check_ports(graph: str, what: str, ports: dict[str, Any], expected: TensorTable) -> None:
    differing = sorted(set(ports) ^ set(expected))
    if differing:
        raise BundleError(
            f"graph '{graph}' and manifest disagree about these {what}s: {', '.join(differing)}"
        )
    for tensor, (shape, dtype) in expected.items():
        port = ports[tensor]
        partial = port.get_partial_shape()
        found = tuple(partial.to_shape()) if partial.is_static else str(partial)
        kind = _TYPES.get(port.get_element_type().get_type_name(), str(port.get_element_type()))
        if (found, kind) != (shape, dtype):
            raise BundleError(
                f"graph '{graph}': {what} '{tensor}' is {kind} {found}, the manifest says {dtype} "
                f"{shape}"
            )

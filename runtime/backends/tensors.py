"""Names, shapes and types of a graph's tensors, as the manifest promises them."""

from __future__ import annotations

from streamseg.runtime.bundle.manifest import GraphSpec, Manifest

TensorTable = dict[str, tuple[tuple[int, ...], str]]


def graph_inputs(graph: GraphSpec, manifest: Manifest) -> TensorTable:
    """Shape and NumPy type of every input."""
    expected: TensorTable = {"frame": (tuple(manifest.frame.shape), "uint8")}
    for spec in map(manifest.state_named, graph.reads):
        for tensor in spec.inputs(graph.ring_reads.get(spec.name, 1)):
            expected[tensor] = (spec.shape, spec.dtype)
    return expected


def graph_outputs(graph: GraphSpec, manifest: Manifest) -> TensorTable:
    """Shape and NumPy type of every output."""
    expected = {tensor: output_shape(tensor, manifest) for tensor in graph.outputs}
    for spec in map(manifest.state_named, graph.writes):
        expected[spec.output] = (spec.shape, spec.dtype)
    return expected


def output_tensors(manifest: Manifest) -> TensorTable:
    """Shape and NumPy type of everything that some graph hands out besides state."""
    names = sorted({name for graph in manifest.graphs.values() for name in graph.outputs})
    return {name: output_shape(name, manifest) for name in names}


def output_shape(tensor: str, manifest: Manifest) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of the graph output ``labels`` or ``logits``."""
    count, *size, _ = manifest.frame.shape
    if tensor == "labels":
        return (count, *size), "uint8"
    return (count, len(manifest.classes), *size), "float32"

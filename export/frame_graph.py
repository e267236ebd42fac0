"""A bundle's step graph without its state, and the tensors of it where a memory joins."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from streamseg.errors import ExportError
from streamseg.runtime.bundle.bundle import Bundle, read_bundle, require_one_stream

_SHAPING = frozenset(("Cast", "Reshape", "Squeeze", "Identity", "Unsqueeze"))
_RESIZING = frozenset((*_SHAPING, "Resize"))
ReadTaps = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Tap:
    """A tensor of a graph, float32 ``[1, C, h, w]``."""

    name: str
    shape: tuple[int, ...]


class FrameGraph:
    """What a bundle computes of one frame, each the first of a stream.

    Args:
        source: a float32 bundle of one graph. A state of its own is left out.
    Attributes:
        bundle: as read.
        model: the graph from ``frame`` on, with its state at the start of a stream.
        scores: what its labels are the largest of.
        features: what the convolution in front of the scores reads; the scores where there is none.
    Raises:
        ExportError: several graphs, another precision, or labels that no scores are behind.
        BundleError: ``source`` is damaged.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.bundle = read_bundle(source)
        require_one_stream(self.bundle, "a memory")
        manifest = self.bundle.manifest
        if len(manifest.graphs) != 1:
            raise ExportError(
                f"{source} chooses among the graphs {', '.join(manifest.graphs)}; a memory needs a "
                "network that treats every frame alike"
            )
        if manifest.precision_name != "fp32":
            raise ExportError(
                f"{source} is {manifest.precision_name}; give the float32 bundle a memory, then "
                "calibrate or export that"
            )
        self.model = _stateless(self.bundle)
        shapes = _find_shapes(self.model)
        self.scores = _find_scores(self.model, shapes, len(manifest.classes), str(source))
        self.features = _find_features(self.model, shapes, self.scores)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frame."""
        spec = self.bundle.manifest.frame
        return spec.height, spec.width

    def open_taps(self, taps: Sequence[Tap], *, threads: int = 0) -> ReadTaps:
        """The graph in ONNX Runtime: (H, W, 3) uint8 RGB to the tensors ``taps``."""
        import onnxruntime  # type: ignore[import-untyped]

        probe = ModelProto()
        probe.CopyFrom(self.model)
        del probe.graph.output[:]
        names = list(dict.fromkeys(tap.name for tap in taps))
        shapes = {tap.name: list(tap.shape) for tap in taps}
        probe.graph.output.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name])
            for name in names
        )
        prune(probe.graph)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

        def read(image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            found = dict(zip(names, session.run(names, {"frame": image[None]}), strict=True))
            return [found[tap.name] for tap in taps]

        return read


def _stateless(bundle: Bundle) -> ModelProto:
    """The step graph with its state at the start of a stream, and without what it writes."""
    (content,) = bundle.graphs.values()
    model = onnx.load_from_string(content)
    zeros = {spec.output for spec in bundle.manifest.state} | {"labels", "logits"}
    for spec in bundle.manifest.state:
        value = bundle.given.get(spec.name, np.zeros(spec.shape, spec.dtype))
        for name in spec.inputs():
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    frame = next(entry for entry in model.graph.input if entry.name == "frame")
    del model.graph.input[:]
    model.graph.input.append(frame)
    rename(model.graph, {name: f"frame/{name}" for name in zeros})
    return model


def _find_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(model)
    return {
        entry.name: tuple(d.dim_value for d in entry.type.tensor_type.shape.dim)
        for entry in (*inferred.graph.value_info, *inferred.graph.output)
    }


def _producers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _find_scores(
    model: ModelProto, shapes: Mapping[str, tuple[int, ...]], classes: int, source: str
) -> Tap:
    """Follow the labels back to the scores ``[1, K, h, w]`` that they are the largest of.

    Labels that are made piece by piece have no such tensor; the graph's logits are one.
    """
    producers = _producers(model)
    logits = shapes.get("frame/logits", ())
    node = producers.get("frame/labels")
    while node is not None and node.op_type in _SHAPING:
        node = producers.get(node.input[0])
    pieces = node is not None and node.op_type == "Concat"
    if pieces and len(logits) == 4 and logits[:2] == (1, classes) and all(logits):
        return Tap("frame/logits", logits)
    if node is None or node.op_type not in ("ArgMax", "UpsampleArgmax"):
        raise ExportError(
            f"the labels of {source} are made by {node.op_type if node else 'nothing'}, expected "
            "the largest of scores: a memory smooths scores. Export or import it with its logits"
        )
    name = node.input[0]
    resized = producers.get(name)
    if node.op_type == "ArgMax" and resized is not None and _is_plain_resize(resized):
        name = resized.input[0]
    shape = shapes.get(name, ())
    if len(shape) != 4 or shape[:2] != (1, classes) or not all(shape):
        raise ExportError(
            f"the scores of {source} are {list(shape)}, expected [1, {classes}, h, w] of fixed size"
        )
    return Tap(name, shape)


def _find_features(model: ModelProto, shapes: Mapping[str, tuple[int, ...]], scores: Tap) -> Tap:
    """Follow the scores back to the convolution that classifies, and take what it reads."""
    producers = _producers(model)
    node = producers.get(scores.name)
    while node is not None and node.op_type in _RESIZING:
        node = producers.get(node.input[0])
    if node is None or node.op_type != "Conv":
        return scores
    shape = shapes.get(node.input[0], ())
    whole = len(shape) == 4 and shape[0] == 1 and all(shape)
    return Tap(node.input[0], shape) if whole else scores


def _is_plain_resize(node: NodeProto) -> bool:
    """Whether a node is the bilinear resize that labels are made with here."""
    values: dict[str, Any] = {
        entry.name: helper.get_attribute_value(entry) for entry in node.attribute
    }
    return (
        node.op_type == "Resize"
        and values.get("mode") == b"linear"
        and values.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
    )


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors of a graph; those inside of branches and loops too."""
    for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        entry.name = names.get(entry.name, entry.name)
    for node in graph.node:
        for fields in (node.input, node.output):
            for index, name in enumerate(fields):
                fields[index] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename(inner, names)


def prune(graph: GraphProto) -> None:
    """Drop nodes and weights that no output needs."""
    needed = {entry.name for entry in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [entry for entry in graph.initializer if entry.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _reads(node: NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for nested in inner.node:
                names |= _reads(nested)
    return names

"""A smoothed memory around a bundle that exists already, imported ONNX graphs among them.

The memory's own graph is joined to the step graph at its scores; nothing else of that is changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn

from streamseg.errors import ExportError
from streamseg.export.graph import trace_module
from streamseg.export.parity import ParityMeter, moving_pattern
from streamseg.export.smoothing import SmoothingConfig, smooth
from streamseg.export.step import Size, upsample
from streamseg.runtime.bundle.bundle import MANIFEST, Bundle, digest, new_bundle, read_bundle
from streamseg.runtime.bundle.manifest import GraphSpec, Manifest, ScheduleRow
from streamseg.runtime.bundle.state import StateSpec
from streamseg.runtime.stream import open_stream

STEP = "step.onnx"
MEMORY = "memory"
FRAMES = 6
LIMIT = 5e-3
AGREEMENT_LIMIT = 0.95
_PREFIX = f"{MEMORY}/"
_SHAPING = frozenset(("Cast", "Reshape", "Squeeze", "Identity", "Unsqueeze"))


@dataclass(frozen=True)
class _Scores:
    """The tensor of a step graph that its labels are made from."""

    name: str
    shape: tuple[int, ...]


class ScoreMemory(nn.Module):
    """The memory alone: ``(frame, scores, memory)`` to ``(labels [, logits], memory)``."""

    def __init__(self, config: SmoothingConfig, *, logits: bool) -> None:
        super().__init__()
        self.config, self.logits = config, logits

    def forward(self, frame: Tensor, scores: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        """See ``smooth``; labels uint8 ``[1, H, W]``, logits ``[1, K, H, W]``."""
        size = (frame.shape[1], frame.shape[2])
        mixed, new = smooth(scores, frame, memory, self.config)
        labels = torch.ops.streamseg.upsample_argmax(mixed, *size)
        return (labels, *((upsample(mixed, size),) if self.logits else ()), new)


def remember_bundle(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    config: SmoothingConfig,
    *,
    logits: bool = False,
) -> Manifest:
    """Write a bundle that smooths the scores of another one over time.

    Args:
        source: a float32 bundle of one graph. A state of its own is left out: each of its frames is
            a first one.
        path: folder to write.
        config: how the past is weighed, such as one of ``smoothing.PRESETS``.
        logits: also output logits.
    Returns:
        The new manifest.
    Raises:
        ExportError: several graphs, another precision, labels that no scores are behind, or a
            result that differs from PyTorch's.
        BundleError: ``source`` is damaged, or ``path`` cannot be written.
    """
    bundle = read_bundle(source)
    manifest = bundle.manifest
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
    frames = _stateless(bundle)
    scores = _find_scores(frames, len(manifest.classes), str(source))
    size = (manifest.frame.height, manifest.frame.width)
    joined = _join(frames, scores, size, config, logits=logits)
    content: bytes = joined.SerializeToString(deterministic=True)
    outputs = ("labels", "logits") if logits else ("labels",)
    spec = StateSpec(MEMORY, (1, scores.shape[1] + 4, *scores.shape[2:]))
    written = replace(
        manifest,
        model={**manifest.model, MEMORY: asdict(config)},
        state=(spec,),
        graphs={"step": GraphSpec(STEP, (MEMORY,), (MEMORY,), outputs)},
        schedule=(ScheduleRow(0, "step"),),
        files={STEP: digest(content)},
        parity={},
    )
    with new_bundle(path) as folder:
        (folder / STEP).write_bytes(content)
        (folder / MANIFEST).write_text(written.to_json(), encoding="utf-8")
        parity = _compare(folder, frames, scores, config)
        written = replace(written, parity={**parity, "parent": bundle.identity})
        (folder / MANIFEST).write_text(written.to_json(), encoding="utf-8")
    return written


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
    _rename(model.graph, {name: f"frame/{name}" for name in zeros})
    return model


def _find_scores(model: ModelProto, classes: int, source: str) -> _Scores:
    """Follow the labels back to the scores ``[1, K, h, w]`` that they are the largest of."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get("frame/labels")
    while node is not None and node.op_type in _SHAPING:
        node = producers.get(node.input[0])
    if node is None or node.op_type not in ("ArgMax", "UpsampleArgmax"):
        raise ExportError(
            f"the labels of {source} are made by {node.op_type if node else 'nothing'}, expected "
            "the largest of scores: a memory smooths scores. Import the graph with its logits"
        )
    name = node.input[0]
    resized = producers.get(name)
    if node.op_type == "ArgMax" and resized is not None and _is_plain_resize(resized):
        name = resized.input[0]
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        entry.name: tuple(d.dim_value for d in entry.type.tensor_type.shape.dim)
        for entry in (*inferred.graph.value_info, *inferred.graph.output)
    }
    shape = shapes.get(name, ())
    if len(shape) != 4 or shape[:2] != (1, classes) or not all(shape):
        raise ExportError(
            f"the scores of {source} are {list(shape)}, expected [1, {classes}, h, w] of fixed size"
        )
    return _Scores(name, shape)


def _is_plain_resize(node: NodeProto) -> bool:
    """Whether a node is the bilinear resize that labels are made with here."""
    values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return (
        node.op_type == "Resize"
        and values.get("mode") == b"linear"
        and values.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
    )


def _join(
    frames: ModelProto, scores: _Scores, size: Size, config: SmoothingConfig, *, logits: bool
) -> ModelProto:
    """One graph: the network's, pruned to its scores, then the memory's."""
    memory = (1, scores.shape[1] + 4, *scores.shape[2:])
    arguments = (
        torch.zeros((1, *size, 3), dtype=torch.uint8),
        torch.zeros(scores.shape),
        torch.zeros(memory),
    )
    outputs = ["labels", *(["logits"] if logits else []), f"{MEMORY}.out"]
    inputs = ["frame", "scores", f"{MEMORY}.in"]
    part = trace_module(ScoreMemory(config, logits=logits), arguments, inputs, outputs)
    kept = {*inputs, *outputs}
    inner = {name for node in part.graph.node for name in (*node.input, *node.output)}
    inner |= {entry.name for entry in part.graph.initializer}
    names = {name: _PREFIX + name for name in inner if name and name not in kept}
    _rename(part.graph, {**names, "scores": scores.name})
    for node in part.graph.node:
        node.name = _PREFIX + node.name
    joined = ModelProto()
    joined.CopyFrom(frames)
    graph = joined.graph
    graph.node.extend(part.graph.node)
    graph.initializer.extend(part.graph.initializer)
    graph.input.extend(entry for entry in part.graph.input if entry.name == f"{MEMORY}.in")
    del graph.output[:], graph.value_info[:]
    graph.output.extend(part.graph.output)
    _prune(graph)
    _join_functions(joined, part)
    graph.name = "step"
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _join_functions(joined: ModelProto, part: ModelProto) -> None:
    known = {(function.domain, function.name) for function in joined.functions}
    for function in part.functions:
        if (function.domain, function.name) not in known:
            joined.functions.append(function)
    versions = {entry.domain: entry.version for entry in joined.opset_import}
    for entry in part.opset_import:
        if versions.setdefault(entry.domain, entry.version) != entry.version:
            raise ExportError(
                f"the bundle's graph is of opset {versions[entry.domain]}, expected "
                f"{entry.version}; export it again"
            )
        if entry.domain not in {known.domain for known in joined.opset_import}:
            joined.opset_import.append(entry)
    used = {"", *(node.domain for node in joined.graph.node)}
    for function in [f for f in joined.functions if f.domain not in used]:
        joined.functions.remove(function)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors of a graph; those inside of branches and loops too."""
    for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        entry.name = names.get(entry.name, entry.name)
    for node in graph.node:
        for fields in (node.input, node.output):
            for index, name in enumerate(fields):
                fields[index] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)


def _prune(graph: GraphProto) -> None:
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


def _compare(
    folder: Path, frames: ModelProto, scores: _Scores, config: SmoothingConfig
) -> dict[str, Any]:
    """The bundle against the old graph's scores in ONNX Runtime and the memory in PyTorch."""
    probe = ModelProto()
    probe.CopyFrom(frames)
    del probe.graph.output[:]
    shape = list(scores.shape)
    probe.graph.output.append(helper.make_tensor_value_info(scores.name, 1, shape))
    _prune(probe.graph)
    session = _open(probe)
    model = ScoreMemory(config, logits=False)
    memory = torch.zeros((1, shape[1] + 4, *shape[2:]))
    meter = ParityMeter()
    with open_stream(folder, native=False) as stream, torch.no_grad():
        spec = stream.manifest.frame
        for image in moving_pattern((spec.height, spec.width), FRAMES):
            (found,) = session.run([scores.name], {"frame": image[None]})
            labels, memory = model(torch.from_numpy(image)[None], torch.from_numpy(found), memory)
            meter.add(stream.step(image).labels, labels[0].numpy())
        ours = stream.snapshot().tensors
    figures = meter.result(ours, {MEMORY: memory.numpy()})
    worst = figures["state_max_abs"]
    if not worst <= LIMIT or not figures["labels_agreement"] >= AGREEMENT_LIMIT:
        raise ExportError(
            f"the joined graph differs from PyTorch by {worst:.2g} and "
            f"{figures['labels_agreement']:.2%} of its labels are PyTorch's, expected at most "
            f"{LIMIT:g} and at least {AGREEMENT_LIMIT:.0%}; nothing was written"
        )
    against = f"the graph's scores, smoothed by torch {torch.__version__} float32"
    return {"against": against, **figures, "limit": LIMIT, "limit_of": "max_abs"}


def _open(model: ModelProto) -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

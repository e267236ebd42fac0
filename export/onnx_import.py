"""An ONNX graph with state, made elsewhere, as a bundle.

The graph stays as it is. Around it stand what every bundle has: a uint8 frame with its
normalisation, and labels. The result is compared with the file as it came, over several frames.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.version_converter
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from streamseg._version import __version__
from streamseg.errors import ExportError, raised_as
from streamseg.export.exporter_failures import list_nodes
from streamseg.export.import_spec import FrameInput, ImportSpec, LabelsOutput, state_name
from streamseg.export.imported_reference import ReferenceRun, compare_import
from streamseg.export.palettes import read_classes
from streamseg.runtime.bundle.bundle import MANIFEST, digest, new_bundle
from streamseg.runtime.bundle.manifest import FrameSpec, GraphSpec, Manifest, ScheduleRow
from streamseg.runtime.bundle.state import STATE_DTYPES, StateSpec

OPSET, IR_VERSION = 20, 9
OLDEST_OPSET = 13
PREFIX = "network/"
STARTED = "started"
STEP = "step.onnx"
_REFUSED = {
    "Loop": "how often its body runs is known at run time only",
    "SequenceEmpty": "sequences have no fixed shape",
    "SequenceConstruct": "sequences have no fixed shape",
}


def import_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    spec: ImportSpec,
    *,
    size: tuple[int, int],
    logits: bool = False,
    license: str = "unknown",  # noqa: A002
) -> Manifest:
    """Write a bundle around the ONNX graph in file ``source``.

    Args:
        source: with all its inputs named in ``spec``; external tensors are read from beside it.
        path: folder of the bundle.
        spec: what the file does not record.
        size: (H, W) of the frame.
        logits: also output logits; needs an output of that kind.
        license: of the weights.
    Returns:
        The bundle's manifest, with what the comparison found in ``parity``.
    Raises:
        ExportError: the file is unreadable, has control flow without a fixed cost, or inputs that
            ``spec`` does not mention; shapes depend on values; the bundle computes something else.
        BundleError: ``path`` cannot be written.
    """
    original = load_graph(source)
    if logits and spec.output.kind != "logits":
        raise ExportError(f"--logits needs an output of logits, '{spec.output.name}' has none")
    _check_names(original, spec)
    fixed = fix_shapes(original, spec, size)
    reference = ReferenceRun(source, spec, size)
    classes = read_classes({"CLASSES": list(spec.classes)} if spec.classes else {}, reference.count)
    model, table = wrap(
        fixed, spec, reference.shapes, size, logits=reference.count if logits else 0
    )
    content: bytes = model.SerializeToString(deterministic=True)
    names = tuple(entry.name for entry in table)
    outputs = ("labels", "logits") if logits else ("labels",)
    manifest = Manifest(
        model={"family": "imported", "encoder": Path(source).name, "classes": len(classes)},
        frame=FrameSpec(*size, mean=spec.frame.mean, std=spec.frame.std),
        state=table,
        graphs={"step": GraphSpec(STEP, names, names, outputs)},
        schedule=(ScheduleRow(0, "step"),),
        classes=classes,
        files={STEP: digest(content)},
        weights={
            "source": Path(source).name,
            "license": license,
            "sha256": digest(Path(source).read_bytes()).removeprefix("sha256:"),
        },
        made_by={
            "streamseg": __version__,
            "onnx": onnx.__version__,
            "python": platform.python_version(),
        },
    )
    states = {state_name(name): name for name in spec.states}
    with new_bundle(path) as folder:
        (folder / STEP).write_bytes(content)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        parity = compare_import(folder, reference, states)
        manifest = Manifest(**{**vars(manifest), "parity": parity})
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def load_graph(source: str | os.PathLike[str]) -> ModelProto:
    """Read and check an ONNX file, and bring it to the bundles' opset.

    Raises:
        ExportError: unreadable, another opset that cannot be converted, or an operator refused.
    """
    with raised_as(ExportError, str(source)):
        model = onnx.load(os.fspath(source))
    for node in list_nodes(model.graph):
        if node.op_type in _REFUSED:
            raise ExportError(
                f"{source} contains {node.op_type} ('{node.name or node.output[0]}'): "
                f"{_REFUSED[node.op_type]}, and a step has a fixed cost; export the network with "
                "one frame a call and its state as inputs and outputs"
            )
        if node.domain not in ("", "ai.onnx") and not model.functions:
            raise ExportError(
                f"{source} contains {node.domain}.{node.op_type}, which is not an operator of ONNX"
            )
    with raised_as(ExportError, str(source)):
        onnx.checker.check_model(model)
    version = next(entry.version for entry in model.opset_import if entry.domain == "")
    if version < OLDEST_OPSET:
        raise ExportError(f"{source} has opset {version}; export it again with opset {OPSET}")
    if version != OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:
            raise ExportError(
                f"{source} has opset {version}, which cannot be converted to {OPSET} ({error}); "
                f"export it again with opset {OPSET}"
            ) from error
    model.ir_version = IR_VERSION
    return model


def graph_inputs(model: ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Inputs without a value in the file, by name."""
    stored = {entry.name for entry in model.graph.initializer}
    return {entry.name: entry for entry in model.graph.input if entry.name not in stored}


def _check_names(model: ModelProto, spec: ImportSpec) -> None:
    inputs, outputs = list(graph_inputs(model)), [entry.name for entry in model.graph.output]
    for what, names, known in (
        ("input", (spec.frame.name, *spec.states, *spec.constants), inputs),
        ("output", (spec.output.name, *spec.states.values()), outputs),
    ):
        for name in names:
            if name not in known:
                raise ExportError(f"the graph has no {what} '{name}'; it has: {', '.join(known)}")
    unused = set(spec.initial) - set(spec.states)
    if unused:
        raise ExportError(f"'{min(unused)}' has an initial value but is not a state")
    remaining = set(inputs) - {spec.frame.name, *spec.states, *spec.constants}
    if remaining:
        raise ExportError(
            f"nothing says what these inputs are: {', '.join(sorted(remaining))}. Give --state "
            "INPUT=OUTPUT for what is carried from frame to frame, --constant INPUT=VALUE for the "
            f"rest. Outputs: {', '.join(outputs)}"
        )


def fix_shapes(model: ModelProto, spec: ImportSpec, size: tuple[int, int]) -> ModelProto:
    """A copy whose frame and constants have their final shape; constants become initializers.

    Raises:
        ExportError: the file's frame has another size, or a named dimension is unknown.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    frame = graph_inputs(fixed)[spec.frame.name]
    shape = (1, 3, *size) if spec.frame.layout == "NCHW" else (1, *size, 3)
    dimensions = frame.type.tensor_type.shape.dim
    if len(dimensions) != 4 or any(
        d.HasField("dim_value") and d.dim_value not in (0, wanted)
        for d, wanted in zip(dimensions, shape, strict=False)
    ):
        raise ExportError(
            f"input '{spec.frame.name}' is {[d.dim_value or d.dim_param for d in dimensions]} in "
            f"the file, expected {spec.frame.layout} {list(shape)}; change --size or the layout"
        )
    for dimension, extent in zip(dimensions, shape, strict=True):
        dimension.dim_value = extent
    for name, value in spec.constants.items():
        entry = graph_inputs(fixed)[name].type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(entry.elem_type)
        extents = [_extent(d, spec) for d in entry.shape.dim]
        fixed.graph.initializer.append(
            numpy_helper.from_array(np.full(extents, value, dtype), name)
        )
    kept = graph_inputs(fixed)
    del fixed.graph.input[:]
    fixed.graph.input.extend(kept.values())
    del fixed.graph.value_info[:]
    return fixed


def _extent(dimension: onnx.TensorShapeProto.Dimension, spec: ImportSpec) -> int:
    return dimension.dim_value or spec.dimensions.get(dimension.dim_param, 1)


def wrap(
    model: ModelProto,
    spec: ImportSpec,
    shapes: Mapping[str, tuple[tuple[int, ...], str]],
    size: tuple[int, int],
    *,
    logits: int,
) -> tuple[ModelProto, tuple[StateSpec, ...]]:
    """The step graph around ``model``, and its state table.

    Args:
        model: from ``fix_shapes``.
        spec: what its inputs and outputs are.
        shapes: state's input -> shape and type of what is carried.
        size: (H, W) of the frame.
        logits: their channels where they are an output, else 0.
    """
    inner = onnx.compose.add_prefix(model, PREFIX)
    step = _Step()
    step.value("frame", (1, *size, 3), "uint8", output=False)
    _add_frame(step, spec.frame)
    started = bool(spec.initial)
    if started:
        step.value(f"{STARTED}.in", (1,), "uint8", output=False)
        step.add("Cast", [f"{STARTED}.in"], "running", to=TensorProto.BOOL)
    table: list[StateSpec] = []
    for source, target in spec.states.items():
        (shape, dtype), name = shapes[source], state_name(source)
        if dtype not in STATE_DTYPES or name in (STARTED, *(entry.name for entry in table)):
            raise ExportError(f"state '{source}' is {dtype}, called '{name}': not possible")
        entry = StateSpec(name, shape, dtype)
        table.append(entry)
        step.value(f"{name}.in", shape, dtype, output=False)
        if source in spec.initial:
            first = step.constant(np.full((1,), spec.initial[source], np.dtype(dtype)))
            step.add("Where", ["running", f"{name}.in", first], PREFIX + source)
        else:
            step.add("Identity", [f"{name}.in"], PREFIX + source)
        step.after("Identity", [PREFIX + target], entry.output)
    _add_labels(step, spec.output, size, logits=logits)
    for entry in table:
        step.value(entry.output, entry.shape, entry.dtype, output=True)
    if started:
        table.append(StateSpec(STARTED, (1,), "uint8"))
        step.after("Identity", [step.constant(np.ones(1, np.uint8))], f"{STARTED}.out")
        step.value(f"{STARTED}.out", (1,), "uint8", output=True)
    return step.build(inner), tuple(table)


class _Step:
    """Nodes before and after a network, put together at the end."""

    def __init__(self) -> None:
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: list[TensorProto] = []

    def constant(self, array: NDArray[Any]) -> str:
        name = f"constant.{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._before.append(helper.make_node(op, inputs, [output], **attributes))

    def after(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._after.append(helper.make_node(op, inputs, [output], **attributes))

    def value(self, name: str, shape: tuple[int, ...], dtype: str, *, output: bool) -> None:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        info = helper.make_tensor_value_info(name, kind, shape)
        (self._outputs if output else self._inputs).append(info)

    def build(self, inner: ModelProto) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(inner)
        nodes = _needed(
            [*self._before, *inner.graph.node, *self._after], [e.name for e in self._outputs]
        )
        del model.graph.node[:], model.graph.input[:], model.graph.output[:]
        del model.graph.value_info[:]
        model.graph.node.extend(nodes)
        model.graph.input.extend(self._inputs)
        model.graph.output.extend(self._outputs)
        model.graph.initializer.extend(self._constants)
        model.graph.name = "step"
        onnx.checker.check_model(model)
        return model


def _needed(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    """The nodes that ``outputs`` depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    wanted |= {name for inside in list_nodes(graph) for name in inside.input}
    return kept[::-1]


def _add_frame(step: _Step, frame: FrameInput) -> None:
    current = "frame"
    if frame.bgr:
        order = step.constant(np.array([2, 1, 0], np.int64))
        step.add("Gather", [current, order], "frame.bgr", axis=3)
        current = "frame.bgr"
    if frame.dtype != "uint8":
        step.add("Cast", [current], "frame.float", to=TensorProto.FLOAT)
        step.add("Sub", ["frame.float", step.constant(_levels(frame.mean, frame))], "frame.zero")
        step.add("Div", ["frame.zero", step.constant(_levels(frame.std, frame))], "frame.scaled")
        current = "frame.scaled"
    if frame.layout == "NCHW":
        step.add("Transpose", [current], "frame.planes", perm=[0, 3, 1, 2])
        current = "frame.planes"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(frame.dtype))
    step.add("Cast", [current], PREFIX + frame.name, to=kind)


def _levels(values: tuple[float, float, float], frame: FrameInput) -> NDArray[np.float32]:
    return np.array(values[::-1] if frame.bgr else values, np.float32)


def _add_labels(step: _Step, output: LabelsOutput, size: tuple[int, int], *, logits: int) -> None:
    """Labels uint8 ``[1, H, W]`` from the network's output, resized where it is smaller."""
    source = PREFIX + output.name
    if output.kind == "labels":
        step.after("Cast", [source], "labels.flat", to=TensorProto.UINT8)
    else:
        step.after("Cast", [source], "scores", to=TensorProto.FLOAT)
        step.after("Shape", ["scores"], "scores.leading", start=0, end=2)
        extents = step.constant(np.array(size, np.int64))
        step.after("Concat", ["scores.leading", extents], "scores.sizes", axis=0)
        step.after(
            "Resize",
            ["scores", "", "", "scores.sizes"],
            "logits" if logits else "scores.full",
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        full = "logits" if logits else "scores.full"
        if output.kind == "alpha":
            threshold = step.constant(np.array(output.threshold, np.float32))
            step.after("Greater", [full, threshold], "foreground")
            step.after("Cast", ["foreground"], "labels.flat", to=TensorProto.UINT8)
        else:
            step.after("ArgMax", [full], "best", axis=1, keepdims=0)
            step.after("Cast", ["best"], "labels.flat", to=TensorProto.UINT8)
    shape = step.constant(np.array([1, *size], np.int64))
    step.after("Reshape", ["labels.flat", shape], "labels")
    step.value("labels", (1, *size), "uint8", output=True)
    if logits:
        step.value("logits", (1, logits, *size), "float32", output=True)

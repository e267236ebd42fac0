"""Explicit Q/DQ: a float32 graph and activation ranges in, an INT8 graph out.

Written here rather than left to ONNX Runtime's quantiser, whose result on these graphs is slower
than float32: it leaves ``MatMul`` + ``Add`` of a one-dimensional bias to be fused into a float
``Gemm``. A bias of shape [1, N] keeps the product a ``MatMul``, which ONNX Runtime then runs in
INT8 (``MatMulIntegerToFloat``); TensorRT takes either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from streamseg.calibration.layers import GraphIndex, Layer
from streamseg.errors import ExportError

_LARGEST = 127

Float = NDArray[np.float32]


def quantise_weight(weight: Float, axis: int) -> tuple[NDArray[np.int8], Float]:
    """Per-channel symmetric INT8.

    Args:
        weight: float32, any shape.
        axis: output channels.

    Returns:
        int8 of the same shape in -127..127, and the float32 scale of each channel.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scale = np.where(largest > 0, largest / _LARGEST, 1.0).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels = np.clip(np.round(weight / scale.reshape(shape)), -_LARGEST, _LARGEST)
    return levels.astype(np.int8), scale


class _Writer:
    """Collects the new graph's nodes and initialisers."""

    def __init__(self, ranges: Mapping[str, float]) -> None:
        self.ranges = ranges
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.readers: dict[str, int] = {}

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def activation(self, layer: Layer) -> str:
        """The layer's input after Q and DQ.

        Layers that read the same tensor get a pair each: ONNX Runtime runs a product in INT8 only
        where nothing else reads its quantised input. Their scales differ in the last bit (1e-7
        of a scale, where a level is 8e-3), because equal pairs would be merged before that.
        """
        tensor = layer.source
        if tensor not in self.ranges:
            raise ExportError(f"no calibrated range for '{tensor}': calibrate again")
        largest = self.ranges[tensor]
        step = np.asarray(largest / _LARGEST if largest > 0 else 1.0, np.float32)
        for _ in range(self.readers.get(tensor, 0)):
            step = np.nextafter(step, np.float32(np.inf))
        self.readers[tensor] = self.readers.get(tensor, 0) + 1
        levels, back = f"{layer.node}.levels", f"{layer.node}.input"
        scale = self.constant(f"{back}.scale", np.asarray(step, np.float32))
        zero = self.constant("int8.zero", np.asarray(0, np.int8))
        self.nodes += [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [levels], f"{levels}.Q"),
            helper.make_node("DequantizeLinear", [levels, scale, zero], [back], f"{back}.DQ"),
        ]
        return back

    def weight(self, layer: Layer, value: Float) -> str:
        levels, scale = quantise_weight(value, layer.axis)
        zeros = self.constant(f"{layer.weight}.zero", np.zeros(len(scale), np.int8))
        name = self.constant(f"{layer.weight}.int8", levels)
        scales = self.constant(f"{layer.weight}.scale", scale)
        back = f"{layer.node}.weight"
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [name, scales, zeros], [back], f"{back}.DQ", axis=layer.axis
            )
        )
        return back


def insert_qdq(
    model: ModelProto,
    layers: Sequence[Layer],
    ranges: Mapping[str, float],
    *,
    keep_float: Collection[str] = (),
) -> ModelProto:
    """Quantise layers.

    Args:
        model: float32 graph; not modified. Functions and custom nodes are kept.
        layers: from ``find_layers``.
        ranges: largest magnitude of each layer's ``source``.
        keep_float: names of layers to leave in float32.

    Raises:
        ExportError: a range is missing.
    """
    chosen = {layer.node: layer for layer in layers if layer.name not in keep_float}
    index = GraphIndex(model)
    writer = _Writer(ranges)
    biased = set()
    for node in model.graph.node:
        copied = NodeProto()
        copied.CopyFrom(node)
        layer = chosen.get(node.name)
        if layer is not None:
            value = np.asarray(numpy_helper.to_array(index.initializers[layer.weight]), np.float32)
            copied.input[0] = writer.activation(layer)
            copied.input[1] = writer.weight(layer, value)
            if layer.kind == "linear":
                biased.add(node.output[0])
        if node.op_type == "Add":
            _widen_bias(copied, index, writer, biased)
        writer.nodes.append(copied)
    return _assemble(model, writer)


def _widen_bias(node: NodeProto, index: GraphIndex, writer: _Writer, biased: set[str]) -> None:
    """Give the bias after an INT8 product the shape [1, N]: see the module's docstring."""
    if not biased.intersection(node.input):
        return
    for i, name in enumerate(node.input):
        if name in index.initializers and len(index.initializers[name].dims) == 1:
            bias = numpy_helper.to_array(index.initializers[name])
            node.input[i] = writer.constant(f"{name}.row", bias[None])


def _assemble(model: ModelProto, writer: _Writer) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(writer.nodes)
    read = {name for node in writer.nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del result.graph.initializer[:]
    result.graph.initializer.extend([*kept, *writer.constants.values()])
    known = {name for node in writer.nodes for name in node.output}
    infos = [entry for entry in model.graph.value_info if entry.name in known]
    del result.graph.value_info[:]
    result.graph.value_info.extend(infos)
    onnx.checker.check_model(result)
    return result

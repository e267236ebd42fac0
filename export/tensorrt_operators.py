"""What TensorRT's oldest supported ONNX parser honours, attribute by attribute.

A parser that meets a value it does not know may take another one and say nothing: those of
TensorRT 10 and 11.1 sample a GridSample of mode ``linear`` by the nearest value. So every operator
and every attribute with a choice must be listed here; anything else is an error at the build.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from streamseg.errors import ExportError
from streamseg.plugins.table import DOMAIN

# The newest opset whose operators the parsers of TensorRT 10.0 to 11.1 import.
NEWEST_OPSET = 20
# The types that Cast may produce: no parser here knows bfloat16 or eight-bit floats in our graphs.
_CAST = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.BOOL, TensorProto.UINT8),
)
_ANY = None
_PADS = {"auto_pad": ("NOTSET",), "pads": _ANY, "strides": _ANY, "kernel_shape": _ANY}

_REDUCTION: Mapping[str, tuple[object, ...] | None] = {
    "keepdims": _ANY,
    "noop_with_empty_axes": (0,),
}
_REDUCTIONS = ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
# Operators without attributes.
_PLAIN = (
    *("Abs", "Add", "And", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Expand"),
    *("Floor", "GlobalAveragePool", "Greater", "GreaterOrEqual", "Identity"),
    *("Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Or"),
    *("Pow", "Range", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Slice", "Softplus"),
    *("Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Unsqueeze", "Where"),
)

# Operator -> attribute -> the values that are honoured, or any.
HONOURED: Mapping[str, Mapping[str, tuple[object, ...] | None]] = {
    **{name: {} for name in _PLAIN},
    "ArgMax": {"axis": _ANY, "keepdims": _ANY, "select_last_index": (0,)},
    "AveragePool": {**_PADS, "ceil_mode": (0,), "count_include_pad": _ANY, "dilations": ([1, 1],)},
    "BatchNormalization": {"epsilon": _ANY, "momentum": _ANY, "training_mode": (0,)},
    "Cast": {"to": _CAST, "saturate": (1,)},
    "CastLike": {"saturate": (1,)},
    "Concat": {"axis": _ANY},
    "Constant": {"value": _ANY, "value_int": _ANY, "value_ints": _ANY, "value_float": _ANY},
    "ConstantOfShape": {"value": _ANY},
    "Conv": {**_PADS, "dilations": _ANY, "group": _ANY},
    "ConvTranspose": {
        **_PADS,
        "dilations": ([1, 1],),
        "group": _ANY,
        "output_padding": ([0, 0],),
    },
    "CumSum": {"exclusive": _ANY, "reverse": _ANY},
    "DepthToSpace": {"blocksize": _ANY, "mode": ("DCR", "CRD")},
    "DequantizeLinear": {"axis": _ANY, "block_size": (0,)},
    "Einsum": {"equation": _ANY},
    "Flatten": {"axis": _ANY},
    "Gather": {"axis": _ANY},
    "GatherElements": {"axis": _ANY},
    "GatherND": {"batch_dims": _ANY},
    "Gelu": {"approximate": ("none", "tanh")},
    "Gemm": {"alpha": _ANY, "beta": _ANY, "transA": _ANY, "transB": _ANY},
    "GridSample": {
        "mode": ("bilinear",),
        "padding_mode": ("zeros", "border", "reflection"),
        "align_corners": (0, 1),
    },
    "GroupNormalization": {"epsilon": _ANY, "num_groups": _ANY},
    "HardSigmoid": {"alpha": _ANY, "beta": _ANY},
    "InstanceNormalization": {"epsilon": _ANY},
    "LayerNormalization": {"axis": _ANY, "epsilon": _ANY, "stash_type": (1,)},
    "LeakyRelu": {"alpha": _ANY},
    "LogSoftmax": {"axis": _ANY},
    "MaxPool": {**_PADS, "ceil_mode": (0,), "dilations": ([1, 1],), "storage_order": (0,)},
    "Mod": {"fmod": _ANY},
    "OneHot": {"axis": _ANY},
    "Pad": {"mode": ("constant", "reflect", "edge")},
    "QuantizeLinear": {"axis": _ANY, "saturate": (1,), "block_size": (0,), "output_dtype": (0,)},
    **dict.fromkeys(_REDUCTIONS, _REDUCTION),
    "Reshape": {"allowzero": (0, 1)},
    "Resize": {
        "antialias": (0,),
        "coordinate_transformation_mode": ("half_pixel", "align_corners", "asymmetric"),
        "cubic_coeff_a": _ANY,
        "exclude_outside": (0,),
        "extrapolation_value": _ANY,  # read by tf_crop_and_resize only
        "keep_aspect_ratio_policy": ("stretch",),
        "mode": ("nearest", "linear"),
        "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    },
    "Scan": {
        "body": _ANY,
        "num_scan_inputs": _ANY,
        "scan_input_axes": _ANY,
        "scan_input_directions": _ANY,
        "scan_output_axes": _ANY,
        "scan_output_directions": _ANY,
    },
    "ScatterElements": {"axis": _ANY, "reduction": ("none",)},
    "ScatterND": {"reduction": ("none",)},
    "Shape": {"start": (0,)},
    "Softmax": {"axis": _ANY},
    "SpaceToDepth": {"blocksize": _ANY},
    "Split": {"axis": _ANY, "num_outputs": _ANY},
    "TopK": {"axis": _ANY, "largest": _ANY, "sorted": _ANY},
    "Transpose": {"perm": _ANY},
}


def check_operators(model: ModelProto) -> None:
    """Check that TensorRT's oldest supported parser reads a graph as ONNX defines it.

    Raises:
        ExportError: an operator, an attribute or a value is not in ``HONOURED``, the opset is too
            new, or ``uint8`` touches anything but a Cast from or to float32.
    """
    for entry in model.opset_import:
        if not entry.domain and entry.version > NEWEST_OPSET:
            raise ExportError(
                f"the graph has opset {entry.version}, and TensorRT's parsers import up to "
                f"{NEWEST_OPSET}. Export the bundle again with this version of streamseg"
            )
    for node in walk_nodes(model.graph):
        if node.domain != DOMAIN:
            _check_node(node)
    _check_bytes(model.graph)


def walk_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node of a graph and of the graphs in its attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from walk_nodes(attribute.g)


def _check_node(node: NodeProto) -> None:
    known = HONOURED.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if known is None:
        raise ExportError(
            f"node '{node.name}' is a {node.domain or 'standard'} {node.op_type}, which is not "
            "among the operators that TensorRT is known to read right. Use --backend onnxruntime "
            "for this bundle"
        )
    for attribute in node.attribute:
        value = _value(attribute)
        if attribute.name not in known:
            raise ExportError(
                f"node '{node.name}' ({node.op_type}) has the attribute {attribute.name}={value}, "
                "which TensorRT's oldest supported parser does not honour"
            )
        allowed = known[attribute.name]
        if allowed is not None and value not in allowed:
            raise ExportError(
                f"node '{node.name}' ({node.op_type}) has {attribute.name}={value}; TensorRT's "
                f"oldest supported parser honours {', '.join(map(str, allowed))}"
            )


def _value(attribute: AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def _check_bytes(graph: GraphProto) -> None:
    """TensorRT promises conversions between ``uint8`` and floats, and no others."""
    kinds = {
        entry.name: entry.type.tensor_type.elem_type
        for entry in (*graph.input, *graph.output, *graph.value_info)
    }
    kinds |= {entry.name: entry.data_type for entry in graph.initializer}
    kinds |= {
        node.output[0]: onnx.helper.get_node_attr_value(node, "to")
        for node in graph.node
        if node.op_type == "Cast"
    }
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    for node in graph.node:
        names = [name for name in (*node.input, *node.output) if name]
        touched = [name for name in names if kinds.get(name) == TensorProto.UINT8]
        if not touched:
            continue
        others = {kinds.get(name) for name in names if name not in touched}
        if node.op_type != "Cast" or not others <= set(floats):
            raise ExportError(
                f"node '{node.name}' ({node.op_type}) reads or writes the uint8 tensor "
                f"'{touched[0]}'; TensorRT converts between uint8 and float only. Export the "
                "bundle again with this version of streamseg"
            )

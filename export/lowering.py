"""The streamseg operators in ONNX: schemas for the exporter, and lowerings to standard ops.

A graph holds nodes of the ``streamseg`` domain. The same file carries each op's lowering as a
model-local function, which ONNX Runtime runs when no native library is registered. What a function
cannot compute from its inputs (which token stands where in which cell) comes in as trailing
constant int32 index inputs, one shared set per geometry; native kernels ignore them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnxscript
import torch
from onnx import ModelProto, NodeProto, numpy_helper

from streamseg.errors import ExportError
from streamseg.export.label_strips import LabelStrips, plan_label_strips
from streamseg.export.windows import WindowGeometry, cell_order
from streamseg.plugins.table import (
    ATTENTION,
    CAUSAL_CONV,
    DOMAIN,
    GEOMETRY,
    MAMBA_LAYER,
    OPERATORS,
    SELECTIVE_SCAN,
    UPSAMPLE_ARGMAX,
    Operator,
)

DOMAIN_VERSION = 1
OPSET = 20


def _schema(operator: Operator) -> onnx.defs.OpSchema:
    """For the exporter; bundles are float32 or float16 throughout when they are checked by it."""
    parameter, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    return onnx.defs.OpSchema(
        operator.name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[parameter(name, "T") for name in operator.input_names],
        outputs=[
            parameter(entry.name, "tensor(uint8)" if entry.role == "labels" else "T")
            for entry in operator.outputs
        ],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "maps")],
        attributes=[
            attribute(name, onnx.defs.OpSchema.AttrType.INT) for name in operator.attribute_names
        ],
    )


_OPSET = onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION)


def _converter(operator: Operator) -> Callable[..., Any]:
    """What turns a call of the torch op, tensors before integers, into a node."""
    node = onnxscript.values.Op(_OPSET, operator.name, _schema(operator))
    count = len(operator.inputs)

    def convert(*arguments: Any) -> Any:
        attributes = zip(operator.attribute_names, arguments[count:], strict=True)
        return node(*arguments[:count], **dict(attributes))

    return convert


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export`` needs to turn our torch ops into nodes of our domain."""
    ops = torch.ops.streamseg
    return {
        ops.windowed_causal_conv.default: _converter(CAUSAL_CONV),
        ops.windowed_selective_scan.default: _converter(SELECTIVE_SCAN),
        ops.upsample_argmax.default: _converter(UPSAMPLE_ARGMAX),
    }


def attach_lowering(model: ModelProto) -> None:
    """Give the model's streamseg nodes their index inputs and their functions, in place."""
    indices: dict[tuple[str, bytes], str] = {}
    taps: set[int] = set()
    shapes = {entry.name: entry.dims for entry in model.graph.initializer}

    def constant(label: str, array: np.ndarray[Any, np.dtype[np.int32]]) -> str:
        key = (str(array.shape), array.tobytes())
        if key not in indices:
            indices[key] = f"cells.{label}.{len(indices)}"
            model.graph.initializer.append(numpy_helper.from_array(array, indices[key]))
        return indices[key]

    used: set[str] = set()
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        used.add(node.op_type)
        indices_of = OPERATORS[node.op_type].indices
        if not indices_of:
            continue
        cells = cell_order(node_geometry(node))
        made = {"order": cells.order, "inverse": cells.inverse}
        if "tail" in indices_of:
            if node.input[1] not in shapes:
                raise ExportError(
                    f"the taps of {node.name} are computed in the graph, expected a constant"
                )
            taps.add(shapes[node.input[1]][1])
            made["tail"] = cells.tail(max(taps) - 1)
        node.input.extend(constant(label, made[label]) for label in indices_of)
    if len(taps) > 1:
        raise ExportError(
            f"convolutions of {sorted(taps)} taps in one graph; one count is possible"
        )
    texts = {
        "WindowedCausalConv": lambda: _conv_function(taps.pop()),
        "WindowedSelectiveScan": lambda: _SCAN_FUNCTION,
        "UpsampleArgmax": lambda: _labels_function(plan_label_strips(model)),
        ATTENTION.name: lambda: ATTENTION_FUNCTION,
    }
    model.functions.extend(onnx.parser.parse_function(texts[name]()) for name in sorted(used))


def node_geometry(node: NodeProto) -> WindowGeometry:
    """Geometry attributes of a windowed node."""
    values = {entry.name: entry.i for entry in node.attribute}
    return WindowGeometry(*(values[name] for name in GEOMETRY))


def lowered(model: ModelProto) -> ModelProto:
    """The model in standard ops only: functions inlined. For consumers that know neither."""
    return onnx.inliner.inline_local_functions(model)


def _conv_function(taps: int) -> str:
    """Shifted adds over the sequence that begins with the old state (``taps`` is fixed in it)."""
    terms = []
    for k in range(taps):
        end = k - (taps - 1) if k < taps - 1 else np.iinfo(np.int64).max
        terms.append(f"""
          from{k} = Constant <value = int64[1] {{{k}}}> ()
          to{k} = Constant <value = int64[1] {{{end}}}> ()
          part{k} = Slice (padded, from{k}, to{k}, axis1)
          index{k} = Constant <value = int64 {{{k}}}> ()
          tap{k} = Gather <axis = 1> (weight, index{k})
          term{k} = Mul (part{k}, tap{k})
          sum{k} = Add ({f"sum{k - 1}" if k else "bias"}, term{k})""")
    return f"""
    <opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
    WindowedCausalConv <{", ".join(GEOMETRY)}>
        (x, weight, bias, state, order, inverse, tail) => (y, next_state)
    {{
      wide = Cast <to = 1> (x)
      {_ZERO_ROW.format(like="x")}
      extended = Concat <axis = 1> (wide, zero)
      sequence = Gather <axis = 1> (extended, order)
      old = Transpose <perm = [0, 3, 1, 2]> (state)
      padded = Concat <axis = 1> (old, sequence)
      axis1 = Constant <value = int64[1] {{1}}> ()
      {"".join(terms)}
      gate = Sigmoid (sum{taps - 1})
      activated = Mul (sum{taps - 1}, gate)
      flat = Reshape (activated, flat_shape)
      scattered = Gather <axis = 1> (flat, inverse)
      y = CastLike (scattered, x)
      all = Reshape (padded, flat_shape)
      newest = Gather <axis = 1> (all, tail)
      next_state = Transpose <perm = [0, 2, 3, 1]> (newest)
    }}"""


# Functions compute in float32, whatever the type of the maps.
# `Pad` would be the natural way to append a zero row; ONNX Runtime 1.17 cannot infer its type
# inside a function.
_ZERO_ROW = """
      shape = Shape ({like})
      i0 = Constant <value = int64[1] {{0}}> ()
      i1 = Constant <value = int64[1] {{1}}> ()
      i2 = Constant <value = int64[1] {{2}}> ()
      minus = Constant <value = int64[1] {{-1}}> ()
      batch = Gather (shape, i0)
      width = Gather (shape, i2)
      zero_shape = Concat <axis = 0> (batch, i1, width)
      zero = ConstantOfShape <value = float[1] {{0.0}}> (zero_shape)
      flat_shape = Concat <axis = 0> (batch, minus, width)"""

_SCAN_FUNCTION = f"""
    <opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
    WindowedSelectiveScan <{", ".join(GEOMETRY)}>
        (u, dt, dt_bias, A, B, C, skip, z, state, order, inverse) => (y, next_state)
    {{
      {_ZERO_ROW.format(like="u")}
      states = Shape <start = 2, end = 3> (B)
      narrow_shape = Concat <axis = 0> (batch, i1, states)
      narrow = ConstantOfShape <value = float[1] {{0.0}}> (narrow_shape)
      u_wide = Cast <to = 1> (u)
      dt_wide = Cast <to = 1> (dt)
      B_wide = Cast <to = 1> (B)
      C_wide = Cast <to = 1> (C)
      z_wide = Cast <to = 1> (z)
      biased = Add (dt_wide, dt_bias)
      delta = Softplus (biased)
      driven = Mul (delta, u_wide)
      delta_rows = Concat <axis = 1> (delta, zero)
      driven_rows = Concat <axis = 1> (driven, zero)
      B_rows = Concat <axis = 1> (B_wide, narrow)
      C_rows = Concat <axis = 1> (C_wide, narrow)
      delta_cells = Gather <axis = 1> (delta_rows, order)
      driven_cells = Gather <axis = 1> (driven_rows, order)
      B_cells = Gather <axis = 1> (B_rows, order)
      C_cells = Gather <axis = 1> (C_rows, order)
      next_state, outputs = Scan <
        num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1],
        body = token (
            float[b, c, d, n] s, float[b, c, d] step, float[b, c, d] into,
            float[b, c, n] b_token, float[b, c, n] c_token
        ) => (float[b, c, d, n] s_next, float[b, c, d] out)
        {{
          last = Constant <value = int64[1] {{-1}}> ()
          middle = Constant <value = int64[1] {{2}}> ()
          step_column = Unsqueeze (step, last)
          exponent = Mul (step_column, A)
          decay = Exp (exponent)
          kept = Mul (decay, s)
          into_column = Unsqueeze (into, last)
          b_row = Unsqueeze (b_token, middle)
          added = Mul (into_column, b_row)
          s_next = Add (kept, added)
          c_column = Unsqueeze (c_token, last)
          out_column = MatMul (s_next, c_column)
          out = Squeeze (out_column, last)
        }}
      > (state, delta_cells, driven_cells, B_cells, C_cells)
      flat = Reshape (outputs, flat_shape)
      scanned = Gather <axis = 1> (flat, inverse)
      skipped = Mul (u_wide, skip)
      summed = Add (scanned, skipped)
      gate = Sigmoid (z_wide)
      silu = Mul (z_wide, gate)
      gated = Mul (summed, silu)
      y = CastLike (gated, u)
    }}"""

_SAME_PLACE = ", ".join(f"{name}: int = @{name}" for name in GEOMETRY)
# Products stay float32 whatever ``precision`` says: rounding them would only cost time.
LAYER_FUNCTION = f"""
    <opset_import: ["" : {OPSET}, "{DOMAIN}" : {DOMAIN_VERSION}], domain: "{DOMAIN}">
    {MAMBA_LAYER.name} <{", ".join(MAMBA_LAYER.attribute_names)}>
        ({", ".join((*MAMBA_LAYER.input_names, *MAMBA_LAYER.indices))})
        => (y, next_conv_state, next_scan_state)
    {{
      square = Mul (x, x)
      last = Constant <value = int64[1] {{-1}}> ()
      mean = ReduceMean <keepdims = 1> (square, last)
      epsilon = Constant <value = float {{1e-5}}> ()
      shifted = Add (mean, epsilon)
      root = Sqrt (shifted)
      quotient = Div (x, root)
      normed = Mul (quotient, norm)
      u = MatMul (normed, u_proj)
      z = MatMul (normed, z_proj)
      convolved, next_conv_state = {DOMAIN}.{CAUSAL_CONV.name} <{_SAME_PLACE}>
          (u, conv_weight, conv_bias, conv_state, order, inverse, tail)
      projected = MatMul (convolved, x_proj)
      rank = Shape <start = 0, end = 1> (dt_proj)
      states = Shape <start = 1, end = 2> (A)
      sizes = Concat <axis = 0> (rank, states, states)
      low, B, C = Split <axis = -1> (projected, sizes)
      dt = MatMul (low, dt_proj)
      scanned, next_scan_state = {DOMAIN}.{SELECTIVE_SCAN.name} <{_SAME_PLACE}>
          (convolved, dt, dt_bias, A, B, C, skip, z, scan_state, order, inverse)
      added = MatMul (scanned, out_proj)
      y = Add (x, added)
    }}"""

# As above: the products stay float32.
ATTENTION_FUNCTION = f"""
    <opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
    {ATTENTION.name} <{", ".join(ATTENTION.attribute_names)}>
        ({", ".join(ATTENTION.input_names)}) => (y)
    {{
      count = Constant <value_int: int = @heads> ()
      axis0 = Constant <value = int64[1] {{0}}> ()
      heads_row = Unsqueeze (count, axis0)
      same = Constant <value = int64[2] {{0, 0}}> ()
      rest = Constant <value = int64[1] {{-1}}> ()
      split = Concat <axis = 0> (same, heads_row, rest)
      joined = Concat <axis = 0> (same, rest)
      q_heads = Reshape (q, split)
      k_heads = Reshape (k, split)
      v_heads = Reshape (v, split)
      queries = Transpose <perm = [0, 2, 1, 3]> (q_heads)
      keys = Transpose <perm = [0, 2, 3, 1]> (k_heads)
      values = Transpose <perm = [0, 2, 1, 3]> (v_heads)
      product = MatMul (queries, keys)
      depth = Shape <start = 3, end = 4> (q_heads)
      wide_depth = CastLike (depth, q)
      root = Sqrt (wide_depth)
      scores = Div (product, root)
      shares = Softmax <axis = -1> (scores)
      result = MatMul (shares, values)
      tokens = Transpose <perm = [0, 2, 1, 3]> (result)
      y = Reshape (tokens, joined)
    }}"""


def _labels_function(strips: LabelStrips | None) -> str:
    """Labels of all pixels at once, or in strips."""
    at_once = """
      sizes = Concat <axis = 0> (leading, row_count, column_count)
      full = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
          (scores, , , sizes)
      best = ArgMax <axis = 1, keepdims = 0> (full)"""
    return f"""
    <opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
    UpsampleArgmax <height, width> (scores) => (labels)
    {{
      rows = Constant <value_int: int = @height> ()
      columns = Constant <value_int: int = @width> ()
      axis0 = Constant <value = int64[1] {{0}}> ()
      row_count = Unsqueeze (rows, axis0)
      column_count = Unsqueeze (columns, axis0)
      leading = Shape <start = 0, end = 2> (scores)
      {strips.body() if strips else at_once}
      labels = Cast <to = 2> (best)
    }}"""

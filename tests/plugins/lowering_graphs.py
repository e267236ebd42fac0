"""Writes one small model for every operator, with its lowering: python -m ... FOLDER.

Releases of ONNX Runtime that are older than what torch needs run these files (make ort-matrix).
"""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path

from onnx import TensorProto, helper, save

from streamseg.export.lowering import attach_lowering
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.table import CAUSAL_CONV, GEOMETRY, SELECTIVE_SCAN

CHANNELS, STATES, TAPS = 21, 16, 4


def write_graphs(folder: Path) -> None:
    """Convolution and scan on a ragged grid, and the argmax."""
    geometry = WindowGeometry(7, 9, 3, 4, 1, 2)
    windows = dict(zip(GEOMETRY, astuple(geometry), strict=True))
    row, narrow = [1, geometry.tokens, CHANNELS], [1, geometry.tokens, STATES]
    vector, decay = [CHANNELS], [CHANNELS, STATES]
    states = [1, geometry.cells, CHANNELS, STATES]
    scan = (row, row, vector, decay, narrow, narrow, vector, row, states)
    _write(
        folder,
        "WindowedSelectiveScan",
        dict(zip(SELECTIVE_SCAN.input_names, scan, strict=True)),
        windows,
    )
    taps = (row, [CHANNELS, TAPS], vector, [1, geometry.cells, CHANNELS, TAPS - 1])
    _write(
        folder, "WindowedCausalConv", dict(zip(CAUSAL_CONV.input_names, taps, strict=True)), windows
    )
    _write(folder, "UpsampleArgmax", {"scores": [1, 19, 6, 8]}, {"height": 24, "width": 32})


def _write(folder: Path, op: str, inputs: dict[str, list[int]], attributes: dict[str, int]) -> None:
    shapes = list(inputs.values())
    float32 = TensorProto.FLOAT
    if op == "UpsampleArgmax":
        size = [1, attributes["height"], attributes["width"]]
        outputs = {"labels": (TensorProto.UINT8, size)}
    else:
        outputs = {"y": (float32, shapes[0]), "next_state": (float32, shapes[-1])}
    values = []
    if op == "WindowedCausalConv":  # the lowering wants constant taps
        count = CHANNELS * TAPS
        numbers = [(i % 7 - 3) / 4 for i in range(count)]
        values.append(helper.make_tensor("weight", float32, inputs["weight"], numbers))
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), list(outputs), domain="streamseg", **attributes)],
        op,
        [
            helper.make_tensor_value_info(name, float32, shape)
            for name, shape in inputs.items()
            if name not in {value.name for value in values}
        ],
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in outputs.items()
        ],
        values,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("streamseg", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    attach_lowering(model)
    save(model, folder / f"{op}.onnx")


if __name__ == "__main__":
    write_graphs(Path(sys.argv[1]))

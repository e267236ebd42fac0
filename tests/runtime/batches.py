"""A bundle of one carried state, for one stream a step or several, and what it computes in NumPy.

Per pixel, with g the frame's green channel / 255: the state is s' = s / 2 + g, and logits are
(s', 1 - g, 2 g). Labels are their argmax.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from streamseg.export.batched_bundle import batch_bundle
from streamseg.runtime.bundle.bundle import MANIFEST, digest
from streamseg.runtime.bundle.manifest import GraphSpec, ScheduleRow
from tests.runtime.toy import CARRY, HEIGHT, MAP, WIDTH, toy_manifest

Image = NDArray[np.uint8]
FLOAT = TensorProto.FLOAT


def write_single(folder: Path) -> Path:
    """Write the bundle of one stream."""
    nodes = [
        helper.make_node("Gather", ["frame", "one"], ["green"], axis=3),
        helper.make_node("Cast", ["green"], ["float"], to=FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["g"]),
        helper.make_node("Mul", ["trace.in", "half"], ["decayed"]),
        helper.make_node("Add", ["decayed", "g"], ["trace.out"]),
        helper.make_node("Sub", ["full", "g"], ["rest"]),
        helper.make_node("Add", ["g", "g"], ["double"]),
        helper.make_node("Concat", ["trace.out", "rest", "double"], ["logits"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    inputs = [
        helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3]),
        helper.make_tensor_value_info("trace.in", FLOAT, MAP),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH]),
        helper.make_tensor_value_info("logits", FLOAT, [1, 3, HEIGHT, WIDTH]),
        helper.make_tensor_value_info("trace.out", FLOAT, MAP),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("scale", FLOAT, [], [1 / 255]),
        helper.make_tensor("half", FLOAT, [], [0.5]),
        helper.make_tensor("full", FLOAT, [1, 1, 1, 1], [1.0]),
    ]
    graph = helper.make_graph(nodes, "carry", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    manifest = replace(
        toy_manifest({"step.onnx": content}),
        state=(CARRY,),
        graphs={"step": GraphSpec("step.onnx", ("trace",), ("trace",), ("labels", "logits"))},
        schedule=(ScheduleRow(0, "step"),),
        files={"step.onnx": digest(content)},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.onnx").write_bytes(content)
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def write_batch(folder: Path, count: int) -> Path:
    """Write the bundle of ``count`` streams a step."""
    path = folder / f"batch{count}"
    batch_bundle(write_single(folder / "single"), path, count)
    return path


class Reference:
    """One stream in NumPy."""

    def __init__(self) -> None:
        self.trace = np.zeros((HEIGHT, WIDTH), np.float32)
        self.steps = 0

    def step(self, frame: Image) -> NDArray[np.float32]:
        """Logits [3, HEIGHT, WIDTH]."""
        g = (frame[..., 1].astype(np.float32) * np.float32(1 / 255)).astype(np.float32)
        self.trace = self.trace * np.float32(0.5) + g
        self.steps += 1
        return np.stack([self.trace, np.float32(1) - g, g + g])

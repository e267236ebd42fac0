"""A bundle small enough to make in every test, of all three kinds of state, without torch.

Per pixel, with g the frame's green channel / 255: the carried state is s' = s / 2 + g, and
logits are (s', ring slots' sum, key). Labels are their argmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from streamseg.runtime.bundle.bundle import MANIFEST, digest
from streamseg.runtime.bundle.manifest import (
    ClassInfo,
    FrameSpec,
    GraphSpec,
    Manifest,
    ScheduleRow,
)
from streamseg.runtime.bundle.state import StateSpec

HEIGHT, WIDTH = 6, 8
MAP = (1, 1, HEIGHT, WIDTH)
CARRY = StateSpec("trace", MAP)
RING = StateSpec("past", MAP, kind="ring", slots=3)
KEY = StateSpec("key", MAP, kind="key")


def _float(name: str, shape: Sequence[int] = MAP) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def toy_graph(*, key: bool, ring_reads: int = 2, rename: dict[str, str] | None = None) -> bytes:
    """The step graph; a key frame's graph writes the key state, the others read it."""
    names = rename or {}
    ring_in = [f"past.{i}.in" for i in range(ring_reads)]
    inputs = [
        helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3]),
        _float("trace.in"),
        *(_float(name) for name in ring_in),
        *([] if key else [_float("key.in")]),
    ]
    nodes = [
        helper.make_node("Gather", ["frame", "one"], ["green"], axis=3),
        helper.make_node("Cast", ["green"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["g"]),
        helper.make_node("Mul", ["trace.in", "half"], ["decayed"]),
        helper.make_node("Add", ["decayed", "g"], ["trace.out"]),
        helper.make_node("Identity", ["g"], ["past.out"]),
        helper.make_node("Sum", ring_in, ["past_sum"]),
    ]
    if key:
        nodes.append(helper.make_node("Identity", ["g"], ["key.out"]))
    nodes += [
        helper.make_node(
            "Concat", ["trace.out", "past_sum", "key.out" if key else "key.in"], ["logits"], axis=1
        ),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH]),
        _float("logits", (1, 3, HEIGHT, WIDTH)),
        _float("trace.out"),
        _float("past.out"),
        *([_float("key.out")] if key else []),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
    ]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, constants)
    for entry in (*graph.input, *graph.output):
        entry.name = names.get(entry.name, entry.name)
    for node in graph.node:
        for fields in (node.input, node.output):
            for i, name in enumerate(fields):
                fields[i] = names.get(name, name)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def toy_manifest(files: dict[str, bytes]) -> Manifest:
    """Key frames every fourth step; the ring is read one and two steps back."""

    def graph(file: str, *, key: bool) -> GraphSpec:
        reads = ("trace", "past") if key else ("trace", "past", "key")
        writes = ("trace", "past", "key") if key else ("trace", "past")
        return GraphSpec(file, reads, writes, ("labels", "logits"), {"past": 2})

    warm = GraphSpec("warm.onnx", ("trace",), ("trace", "past", "key"), ("labels", "logits"))
    ages = {"past": (1, 2)}
    return Manifest(
        model={"family": "toy", "encoder": "none", "classes": 3},
        frame=FrameSpec(HEIGHT, WIDTH, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
        state=(CARRY, RING, KEY),
        graphs={
            "warm": warm,
            "key": graph("key.onnx", key=True),
            "step": graph("step.onnx", key=False),
        },
        schedule=(
            ScheduleRow(0, "warm"),
            ScheduleRow(2, "step", ages=ages),
            ScheduleRow(4, "key", every=4, ages=ages),
        ),
        classes=(
            ClassInfo(0, "trace", (255, 0, 0)),
            ClassInfo(1, "past", (0, 255, 0)),
            ClassInfo(2, "key", (0, 0, 255)),
        ),
        files={name: digest(content) for name, content in files.items()},
        weights={"source": "made by a test", "license": "Apache-2.0"},
        parity={"frames": 0},
        made_by={"streamseg": "test"},
    )


def warm_graph() -> bytes:
    """The graph of the first two steps: no ring yet; its part of the logits is zero."""
    model = onnx.load_from_string(toy_graph(key=True, ring_reads=1))
    graph = model.graph
    kept = [entry for entry in graph.input if entry.name != "past.0.in"]
    del graph.input[:]
    graph.input.extend(kept)
    for node in graph.node:
        if node.op_type == "Sum":
            node.op_type = "Sub"
            node.input[:] = ["g", "g"]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def write_toy_bundle(folder: Path) -> Path:
    """Write the toy bundle into ``folder``."""
    files = {
        "warm.onnx": warm_graph(),
        "key.onnx": toy_graph(key=True),
        "step.onnx": toy_graph(key=False),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_text(toy_manifest(files).to_json())
    return folder


class ToyReference:
    """The same computation in NumPy."""

    def __init__(self) -> None:
        self.greens: list[np.ndarray[Any, Any]] = []
        self.trace = np.zeros((HEIGHT, WIDTH), np.float32)

    def step(self, frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Logits [3, HEIGHT, WIDTH]."""
        g = (frame[..., 1].astype(np.float32) * np.float32(1 / 255)).astype(np.float32)
        step = len(self.greens)
        self.greens.append(g)
        self.trace = self.trace * np.float32(0.5) + g
        if step < 2:
            return np.stack([self.trace, np.zeros_like(g), g])
        key = 1 if step < 4 else step - step % 4
        past = self.greens[step - 1] + self.greens[step - 2]
        return np.stack([self.trace, past, self.greens[key]])

"""Write a bundle by hand: the nearest colour of a running mean. Needs onnx, no PyTorch, no weights.

The smallest model whose state anyone can see: with it labels are steady, without it they follow
the sensor's noise. python samples/smoothing_bundle.py out/smooth --size 256x512
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamseg.runtime.bundle.bundle import MANIFEST, digest
from streamseg.runtime.bundle.manifest import ClassInfo, FrameSpec, GraphSpec, Manifest, ScheduleRow
from streamseg.runtime.bundle.state import StateSpec

DECAY = 0.85  # weight of the past; a frame counts half after 4.3 more
COLORS = {
    "dark": (40, 40, 44),
    "grey": (110, 110, 112),
    "bright": (215, 215, 215),
    "blue": (120, 160, 205),
    "green": (80, 115, 65),
    "brown": (130, 100, 75),
    "red": (170, 65, 60),
}
STEP = "step.onnx"


def make_graph(height: int, width: int) -> bytes:
    """Labels = argmax over colours c of 2 mean.c - c.c, which is the colour nearest to the mean."""
    colors = np.array(list(COLORS.values()), np.float32) / 255
    constants = {
        "scale": np.float32(1 / 255),
        "decay": np.float32(DECAY),
        "one": np.float32(1),
        "kernel": 2 * colors[:, :, None, None],
        "bias": -np.square(colors).sum(axis=1),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["bytes"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["color"]),
        helper.make_node("Mul", ["sum.in", "decay"], ["old_sum"]),
        helper.make_node("Add", ["old_sum", "color"], ["sum.out"]),
        helper.make_node("Mul", ["weight.in", "decay"], ["old_weight"]),
        helper.make_node("Add", ["old_weight", "one"], ["weight.out"]),
        helper.make_node("Div", ["sum.out", "weight.out"], ["mean"]),
        helper.make_node("Conv", ["mean", "kernel", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    state = {"sum": [1, 3, height, width], "weight": [1, 1, 1, 1]}
    graph = helper.make_graph(
        nodes,
        "smoothing",
        [_tensor("frame", [1, height, width, 3], TensorProto.UINT8)]
        + [_tensor(f"{name}.in", shape) for name, shape in state.items()],
        [_tensor("labels", [1, height, width], TensorProto.UINT8)]
        + [_tensor(f"{name}.out", shape) for name, shape in state.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _tensor(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def write_smoothing_bundle(folder: Path, size: tuple[int, int]) -> Path:
    """Write graph and manifest into ``folder``."""
    height, width = size
    content = make_graph(height, width)
    manifest = Manifest(
        model={"family": "smoothing", "encoder": "none", "classes": len(COLORS)},
        frame=FrameSpec(height, width, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
        state=(StateSpec("sum", (1, 3, height, width)), StateSpec("weight", (1, 1, 1, 1))),
        graphs={"step": GraphSpec(STEP, ("sum", "weight"), ("sum", "weight"), ("labels",))},
        schedule=(ScheduleRow(0, "step"),),
        classes=tuple(ClassInfo(i, name, rgb) for i, (name, rgb) in enumerate(COLORS.items())),
        files={STEP: digest(content)},
        weights={"source": "none: colours chosen by hand", "license": "Apache-2.0"},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STEP).write_bytes(content)
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="folder, e.g. out/smooth")
    parser.add_argument("--size", default="256x512", help="HxW")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    print(write_smoothing_bundle(arguments.target, (height, width)))


if __name__ == "__main__":
    main()

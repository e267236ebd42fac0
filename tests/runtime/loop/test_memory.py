"""What an open bundle keeps in memory: its weights once, and not more with every step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamseg.runtime.bundle.bundle import MANIFEST
from tests.runtime.toy import HEIGHT, WIDTH, toy_graph, toy_manifest, warm_graph, write_toy_bundle

ROWS, COLUMNS = 256, 1 << 16
BALLAST = ROWS * COLUMNS * 4
STEPS = 40

# A process of its own: this one's memory is pytest's.
PROBE = """
import gc, json, sys
import numpy as np
import onnxruntime
import streamseg
import streamseg.runtime.stream

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
stream = streamseg.open(sys.argv[1], native=False, threads=1)
opened = resident()
image = np.full((%d, %d, 3), 7, np.uint8)
samples = []
for _ in range(%d):
    stream.step(image)
    samples.append(resident())
print(json.dumps([before, opened, samples[len(samples) // 2], samples[-1]]))
""" % (HEIGHT, WIDTH, STEPS)  # noqa: UP031  (braces belong to the script)


def heavy(content: bytes) -> bytes:
    """The graph with a large table, one row of which adds nothing to the logits."""
    model = onnx.load_from_string(content)
    graph = model.graph
    table = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(table, "table"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    (concat,) = (node for node in graph.node if node.op_type == "Concat")
    concat.output[0] = "light"
    at = list(graph.node).index(concat) + 1
    added = [
        helper.make_node("Cast", ["frame"], ["levels"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", ["levels"], ["brightest"], keepdims=0),
        helper.make_node("Gather", ["table", "brightest"], ["row"]),
        helper.make_node("ReduceMax", ["row"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "nothing"], ["weightless"]),
        helper.make_node("Add", ["light", "weightless"], ["logits"]),
    ]
    rest = list(graph.node)[at:]
    del graph.node[at:]
    graph.node.extend([*added, *rest])
    onnx.checker.check_model(model, full_check=True)
    result: bytes = model.SerializeToString()
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_open_bundle_keeps_its_weights_once_in_memory(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "heavy")
    files = {
        "warm.onnx": warm_graph(),
        "key.onnx": heavy(toy_graph(key=True)),
        "step.onnx": heavy(toy_graph(key=False)),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_text(toy_manifest(files).to_json())
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder)], capture_output=True, text=True, check=True
    )
    before, opened, middle, last = json.loads(done.stdout.splitlines()[-1])
    weights = 2 * BALLAST
    assert weights <= opened - before < 1.4 * weights
    assert last - before < 1.4 * weights
    assert last - middle < 1 << 20

"""Temporal layers fused into one operator: graphs, bundles and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from streamseg.errors import ExportError, PluginNotFound
from streamseg.export import export_bundle
from streamseg.export.fusion import fuse_layers
from streamseg.export.graph import trace_step
from streamseg.export.graph_parts import split_graph
from streamseg.export.tensorrt_graph import plugin_graph
from streamseg.plugins.loader import find_library
from streamseg.runtime.bundle.bundle import read_bundle
from tests.export.test_checkpoint import MIT
from tests.export.tiny import FAMILIES, SIZE

FRAMES = 3
# Norm of the error as a share of the norm of the state.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "int8": 5e-2}


@pytest.fixture(scope="module")
def plain() -> ModelProto:
    return trace_step(FAMILIES["tv3s"](), SIZE, graph="step", logits=True).model


def library() -> str:
    try:
        return str(find_library())
    except PluginNotFound as error:
        pytest.skip(str(error))


def run(model: ModelProto, *, native: bool) -> dict[str, Any]:
    """Outputs of the last of a few frames, with carried state."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if native:
        options.register_custom_ops_library(library())
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {
        entry.name: np.zeros(entry.shape, np.float32)
        for entry in session.get_inputs()
        if entry.name != "frame"
    }
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for _ in range(FRAMES):
        frame = rng.integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
        values = session.run(None, {"frame": frame, **feeds})
        found = dict(zip((entry.name for entry in session.get_outputs()), values, strict=True))
        feeds = {name: found[f"{name.removesuffix('.in')}.out"] for name in feeds}
    return found


def state_error(got: dict[str, Any], want: dict[str, Any]) -> float:
    names = [name for name in want if name.endswith(".out")]
    assert names
    return max(
        float(np.linalg.norm(got[name] - want[name]) / np.linalg.norm(want[name])) for name in names
    )


@pytest.mark.parametrize("precision", TOLERANCE)
def test_fused_graph_follows_its_parts(plain: ModelProto, precision: str) -> None:
    fused = fuse_layers(plain, precision)
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("WindowedMambaLayer") == sum(
        node.op_type == "WindowedCausalConv" for node in plain.graph.node
    )
    assert "WindowedCausalConv" not in kinds
    assert "WindowedSelectiveScan" not in kinds
    want = run(plain, native=False)
    assert state_error(run(fused, native=True), want) <= TOLERANCE[precision]


def test_lowering_is_float32_whatever_the_precision(plain: ModelProto) -> None:
    got, want = run(fuse_layers(plain, "int8"), native=False), run(plain, native=False)
    assert state_error(got, want) <= 1e-5
    assert np.array_equal(got["labels"], want["labels"])


@pytest.mark.parametrize("precision", ["bf16", "int8-dynamic"])
def test_bundle_records_its_precision_and_measures_it(tmp_path: Path, precision: str) -> None:
    library()
    report = export_bundle(FAMILIES["tv3s"](), tmp_path / "b", size=SIZE, precision=precision)
    manifest = read_bundle(tmp_path / "b").manifest
    assert manifest.precision_name == precision
    assert manifest.precision["attention"] == precision
    kinds = [node.op_type for node in onnx.load(tmp_path / "b/step.onnx").graph.node]
    assert kinds.count("MultiHeadAttention") == sum(MIT.encoder.depths)
    assert "Softmax" not in kinds
    assert "native kernels" in report.parity["with"]
    assert 0 < report.parity["state_relative"] <= report.parity["limit"]
    assert report.parity["limit_of"] == "relative"
    assert "parent" in report.parity


def test_network_without_temporal_layers_has_its_attention_fused(tmp_path: Path) -> None:
    library()
    report = export_bundle(
        FAMILIES["segformer"](), tmp_path / "b", size=SIZE, precision="int8-dynamic"
    )
    manifest = read_bundle(tmp_path / "b").manifest
    assert manifest.precision_name == manifest.precision["attention"] == "int8-dynamic"
    assert "temporal" not in manifest.precision
    assert "native kernels" in report.parity["with"]
    assert report.parity["limit_of"] == "relative"


def test_network_with_nothing_to_fuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no temporal layers, and no attention without a mask"):
        export_bundle(FAMILIES["upernet-convnext"](), tmp_path / "b", size=SIZE, precision="bf16")
    assert not (tmp_path / "b").exists()


def test_another_epsilon_is_refused(plain: ModelProto) -> None:
    other = ModelProto()
    other.CopyFrom(plain)
    root = next(node for node in other.graph.node if node.op_type == "WindowedCausalConv")
    producers = {name: node for node in other.graph.node for name in node.output}
    node = producers[producers[root.input[0]].input[0]]
    for kind in ("Div", "Sqrt", "Add"):
        node = next(
            producers[n]
            for n in node.input[::-1]
            if n in producers and (producers[n].op_type == kind)
        )
    epsilon = next(entry for entry in other.graph.initializer if entry.name in node.input)
    epsilon.CopyFrom(numpy_helper.from_array(np.float32(1e-6), epsilon.name))
    with pytest.raises(ExportError, match=r"epsilon 1e-06, expected RMSNorm with 1e-05"):
        fuse_layers(other, "bf16")


def test_weight_that_the_graph_computes_is_refused_at_load(plain: ModelProto) -> None:
    fused = fuse_layers(plain, "fp32")
    node = next(node for node in fused.graph.node if node.op_type == "WindowedMambaLayer")
    index = list(fused.graph.node).index(node)
    made = onnx.helper.make_node("Neg", [node.input[10]], ["computed.skip"])
    switch = next(entry for entry in fused.graph.input if entry.name == "frame")
    zero = onnx.helper.make_node("Cast", [switch.name], ["computed.frame"], to=1)
    total = onnx.helper.make_node("ReduceSum", ["computed.frame"], ["computed.sum"], keepdims=0)
    varied = onnx.helper.make_node("Add", ["computed.skip", "computed.sum"], ["computed.weight"])
    node.input[10] = "computed.weight"
    for extra in (varied, total, zero, made):
        fused.graph.node.insert(index, extra)
    with pytest.raises(Exception, match="skip is computed in the graph, expected a constant"):
        run(fused, native=True)


def test_graphs_for_tensorrt_and_the_web_refuse_fused_layers(plain: ModelProto) -> None:
    fused = fuse_layers(plain, "bf16")
    with pytest.raises(ExportError, match="has no TensorRT plugin"):
        plugin_graph(fused)
    with pytest.raises(ExportError, match="the graph has fused operators"):
        split_graph(fused)

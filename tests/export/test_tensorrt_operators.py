"""What graphs for TensorRT may hold, and how what they may not is rewritten or refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.errors import ExportError
from streamseg.evaluation.datasets import open_dataset
from streamseg.export.parity import moving_pattern
from streamseg.export.tensorrt_graph import lowered_graph
from streamseg.export.tensorrt_operators import check_operators
from tests.conftest import TinyBundle
from tests.export import tiny


def graph_of(*nodes: onnx.NodeProto, opset: int = 20) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in "xy"]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("GridSample", ["x", "g"], ["y"], mode="linear"), "honours bilinear"),
        (helper.make_node("GridSample", ["x", "g"], ["y"], mode="cubic"), "honours bilinear"),
        (helper.make_node("Resize", ["x"], ["y"], mode="linear", antialias=1), "antialias=1"),
        (helper.make_node("Resize", ["x"], ["y"], mode="cubic"), "mode=cubic"),
        (helper.make_node("Resize", ["x"], ["y"], axes=[2, 3]), "axes="),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16), "to=16"),
        (helper.make_node("Shape", ["x"], ["y"], start=1), "start=1"),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], ceil_mode=1), "ceil_mode"),
        (helper.make_node("Det", ["x"], ["y"]), "standard Det"),
        (helper.make_node("Add", ["x", "x"], ["y"], domain="com.microsoft"), "com.microsoft Add"),
    ],
)
def test_graphs_beyond_the_oldest_parser_are_rejected(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_operators(graph_of(node))


def test_newer_opsets_are_refused() -> None:
    with pytest.raises(ExportError, match="opset 21"):
        check_operators(graph_of(helper.make_node("Abs", ["x"], ["y"]), opset=21))


def test_subgraphs_are_checked_too() -> None:
    inner = helper.make_graph([helper.make_node("Det", ["a"], ["b"])], "body", [], [])
    scan = helper.make_node("Scan", ["x"], ["y"], body=inner, num_scan_inputs=1)
    with pytest.raises(ExportError, match="Det"):
        check_operators(graph_of(scan))


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL])
def test_bytes_come_from_and_go_to_floats_only(kind: int) -> None:
    number = helper.make_node("Cast", ["x"], ["n"], to=kind)
    labels = helper.make_node("Cast", ["n"], ["b"], to=TensorProto.UINT8)
    with pytest.raises(ExportError, match="uint8 and float only"):
        check_operators(graph_of(number, labels))
    check_operators(graph_of(helper.make_node("Cast", ["x"], ["b"], to=TensorProto.UINT8)))


def test_labels_reach_bytes_through_float(tiny_bundle: TinyBundle) -> None:
    model = lowered_graph(onnx.load(tiny_bundle("segformer", "fp32") / "step.onnx"))
    writer = next(node for node in model.graph.node if "labels" in node.output)
    before = next(node for node in model.graph.node if writer.input[0] in node.output)
    assert (writer.op_type, before.op_type) == ("Cast", "Cast")
    assert helper.get_node_attr_value(before, "to") == TensorProto.FLOAT


@pytest.mark.parametrize("family", ["mpvss", "mask2former"])
def test_grid_samples_are_called_bilinear(family: str, tiny_bundle: TinyBundle) -> None:
    found = 0
    for path in tiny_bundle(family, "fp32").glob("*.onnx"):
        for node in lowered_graph(onnx.load(path)).graph.node:
            if node.op_type == "GridSample":
                assert helper.get_node_attr_value(node, "mode") == b"bilinear"
                found += 1
    assert found > 5


def test_int8_graphs_have_one_quantiser_a_tensor_and_compute_the_same(
    tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    (tmp_path / "clip").mkdir()
    for i, image in enumerate(moving_pattern(tiny.SIZE, 4)):
        cv2.imwrite(str(tmp_path / f"clip/{i}.png"), image)
    dataset = open_dataset(f"footage:{tmp_path / 'clip'}", "train", labels=False)
    options = CalibrationOptions(clips=1, clip_frames=4)
    source = tiny_bundle("segformer", "fp32")
    calibrate(source, tmp_path / "int8", dataset, options, report=False)
    model = onnx.load(tmp_path / "int8/step.onnx")
    before = Counter(n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear")
    merged = lowered_graph(model)
    after = Counter(n.input[0] for n in merged.graph.node if n.op_type == "QuantizeLinear")
    assert max(before.values()) > 1, "a tensor with several readers, or this shows nothing"
    assert set(after.values()) == {1}
    assert set(after) == set(before)
    frame = {"frame": moving_pattern(tiny.SIZE, 1)[0][None]}
    whole = onnxruntime.SessionOptions()
    whole.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    ours, theirs = (
        dict(zip((o.name for o in session.get_outputs()), session.run(None, frame), strict=True))
        for session in (
            onnxruntime.InferenceSession(
                graph.SerializeToString(), whole, providers=["CPUExecutionProvider"]
            )
            for graph in (merged, onnx.inliner.inline_local_functions(model))
        )
    )
    error = np.linalg.norm(ours["logits"] - theirs["logits"]) / np.linalg.norm(theirs["logits"])
    assert error < 1e-2
    assert (ours["labels"] == theirs["labels"]).mean() > 0.99

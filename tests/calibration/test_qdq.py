"""Which layers become INT8, and the graph with Q/DQ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from streamseg.calibration import observation
from streamseg.calibration.layers import find_layers
from streamseg.calibration.qdq import insert_qdq, quantise_weight
from streamseg.calibration.quantisation import smooth_graph
from streamseg.calibration.replay import Replayer
from streamseg.errors import ExportError
from streamseg.evaluation.datasets import open_dataset
from streamseg.runtime.bundle.bundle import read_bundle
from tests.calibration.conftest import LOWERED


def test_layers_leave_out_what_must_stay_float(graph):
    layers = {layer.name: layer for layer in find_layers(graph)}
    for i in range(2):
        for name in ("in_proj.x", "in_proj.z", "out_proj"):
            assert layers.pop(f"layer{i}.{name}").kind == "linear"
    assert not [name for name in layers if name.startswith(("layer", "decode_head"))]
    assert not [name for name in layers if "dwconv" in name or "stages.0.patch" in name]
    assert "backbone.stages.0.blocks.0.mlp.fc1" in layers
    assert layers["backbone.stages.3.patch_embeddings.proj"].kind == "conv"


def test_weights_are_symmetric_per_channel():
    weight = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    weight[:, 1] *= 100
    weight[:, 2] = 0
    levels, scale = quantise_weight(weight, 1)
    assert levels.dtype == np.int8
    assert np.abs(levels).max(axis=0).tolist() == [127, 127, 0]
    assert (np.abs(levels * scale - weight) <= scale / 2 * 1.0001).all()


def test_graph_keeps_functions_and_custom_nodes_and_quantises_the_chosen_layers(graph, ranges):
    layers = find_layers(graph)
    kept = layers[0].name
    result = insert_qdq(graph, layers, ranges.of("step", "minmax"), keep_float=[kept])
    onnx.checker.check_model(result, full_check=True)
    assert [f.name for f in result.functions] == [f.name for f in graph.functions]
    producers = {name: node for node in result.graph.node for name in node.output}
    for layer in layers:
        node = next(node for node in result.graph.node if node.name == layer.node)
        kinds = [producers[name].op_type if name in producers else "" for name in node.input[:2]]
        assert (kinds == ["DequantizeLinear"] * 2) == (layer.name != kept)
    scales = [t for t in result.graph.initializer if t.name.endswith(".input.scale")]
    assert len(scales) == len(layers) - 1


def test_onnxruntime_multiplies_every_linear_layer_in_int8(graph, ranges, tmp_path):
    """Guards the bias shape and the pair of Q and DQ for each reader: see calibration/qdq.py."""
    runtime = pytest.importorskip("onnxruntime")
    layers = find_layers(graph)
    result = insert_qdq(graph, layers, ranges.of("step", "minmax"))
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    runtime.InferenceSession(
        result.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    integer = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
    assert len(integer) == sum(layer.kind == "linear" for layer in layers)


def test_quantised_graph_is_refused_as_a_source(graph, ranges):
    result = insert_qdq(graph, find_layers(graph), ranges.of("step", "minmax"))
    with pytest.raises(ExportError, match="quantised already"):
        find_layers(result)


def test_missing_range_is_named(graph):
    with pytest.raises(ExportError, match="no calibrated range for"):
        insert_qdq(graph, find_layers(graph), {})


def test_smoothing_changes_only_the_spread_of_channels(bundle, graph, footage):
    layers = find_layers(graph)
    rng = np.random.default_rng(0)
    targets = observation.smoothable(graph, layers)
    assert len(targets) == 2  # the RMSNorm in front of each in_proj
    weights = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    factors = {
        source: rng.uniform(0.2, 5, len(weights[scale])).astype(np.float32)
        for source, scale in targets.items()
    }
    smooth = smooth_graph(graph, layers, factors)
    source = next(iter(targets))
    taps = {"step": ["logits", source]}
    opened = read_bundle(bundle)
    plain = Replayer(opened, taps, LOWERED)
    changed = Replayer(opened, taps, LOWERED, graphs={"step": smooth.SerializeToString()})
    for frame in open_dataset(f"footage:{footage}").clips[0]:
        a, b = plain.step(frame.image)[1], changed.step(frame.image)[1]
        np.testing.assert_allclose(a["logits"], b["logits"], atol=2e-3)
        np.testing.assert_allclose(a[source], b[source] * factors[source], rtol=1e-3, atol=1e-5)

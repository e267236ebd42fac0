"""Labels in strips: equal to those made at once, and never all scores at once."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
import pytest
import torch
from onnx import ModelProto, helper
from torch.nn import functional

from streamseg.export import label_strips
from streamseg.export.label_strips import plan_label_strips
from streamseg.export.lowering import OPSET, attach_lowering, lowered
from streamseg.export.tensorrt_graph import lowered_graph
from streamseg.plugins.table import DOMAIN, UPSAMPLE_ARGMAX

CLASSES, WIDTH = 5, 24


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_strips, "LARGE_SCORES", 1000)
    monkeypatch.setattr(label_strips, "SCORES_LIMIT", 4000)


def labels_graph(rows: int, height: int) -> ModelProto:
    """A frame's labels from scores ``[1, CLASSES, rows, 6]``."""
    node = helper.make_node(
        UPSAMPLE_ARGMAX.name, ["scores"], ["labels"], domain=DOMAIN, height=height, width=WIDTH
    )
    scores = helper.make_tensor_value_info(
        "scores", onnx.TensorProto.FLOAT, [1, CLASSES, rows, WIDTH // 4]
    )
    labels = helper.make_tensor_value_info("labels", onnx.TensorProto.UINT8, [1, height, WIDTH])
    model = helper.make_model(
        helper.make_graph([node], "labels", [scores], [labels]),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=9,
    )
    attach_lowering(model)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [5, 9, 16])
def test_strips_equal_interpolation_by_torch(rows: int, factor: int) -> None:
    model = labels_graph(rows, rows * factor)
    assert plan_label_strips(model) is not None
    scores = torch.randn(1, CLASSES, rows, WIDTH // 4, generator=torch.Generator().manual_seed(0))
    full = functional.interpolate(scores, (rows * factor, WIDTH), mode="bilinear")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"scores": scores.numpy()})
    np.testing.assert_array_equal(found, full.argmax(1).numpy())


def test_no_tensor_holds_more_than_a_strip_with_its_neighbours() -> None:
    model = onnx.shape_inference.infer_shapes(lowered(labels_graph(16, 64)), data_prop=True)
    shapes = [entry.type.tensor_type.shape.dim for entry in model.graph.value_info]
    wide = [dims for dims in shapes if len(dims) == 4 and dims[3].dim_value == WIDTH]
    assert len(wide) > 2
    assert (
        max(dims[2].dim_value for dims in wide)
        <= (4000 // (CLASSES * 64 * WIDTH * 4 // 16) + 2) * 4
    )


@pytest.mark.parametrize("height", [7, 15, 16])
def test_small_or_inexact_scores_are_enlarged_at_once(
    height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if height == 16:
        monkeypatch.setattr(label_strips, "LARGE_SCORES", 1 << 20)
    model = labels_graph(5 if height == 15 else 4, height)
    assert plan_label_strips(model) is None
    assert [node.op_type for node in lowered(model).graph.node].count("Resize") == 1


def test_tensorrt_reads_strips() -> None:
    lowered_graph(labels_graph(16, 64))

"""Graphs for as many streams as are ready; tests/export/test_batched_graph.py opens all of its."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from streamseg.errors import ExportError
from streamseg.export.batched_graph import batch_graph
from streamseg.export.open_batch import compare_open, open_batch
from streamseg.runtime.bundle.bundle import read_bundle
from tests.export.test_batched_graph import graph_of
from tests.runtime.batches import write_batch

COUNT = 3


def opened(folder: Path) -> tuple[bytes, onnx.ModelProto]:
    """The graph of a bundle for three streams, and the same for an open number."""
    content = read_bundle(write_batch(folder, COUNT)).graphs["step"]
    return content, open_batch(onnx.load_from_string(content), COUNT)


def test_every_tensor_of_a_stream_begins_with_the_open_axis(tmp_path: Path) -> None:
    _, model = opened(tmp_path)
    for entry in (*model.graph.input, *model.graph.output):
        assert entry.type.tensor_type.shape.dim[0].dim_param == "streams"


def test_repeated_constants_are_kept_once() -> None:
    bias = np.random.default_rng(0).standard_normal((4, 1, 6)).astype(np.float32)
    single = graph_of(
        (1, 8, 6),
        lambda add, constant: add(
            "Reshape",
            add("Add", add("Reshape", "x", constant(np.array([4, 2, 6]))), constant(bias)),
            constant(np.array([1, 8, 6])),
        ),
    )
    model = open_batch(batch_graph(single, COUNT), COUNT)
    largest = max(model.graph.initializer, key=lambda entry: np.prod(entry.dims))
    np.testing.assert_array_equal(numpy_helper.to_array(largest), bias)


def test_constants_that_differ_between_streams_are_refused() -> None:
    bias = np.arange(COUNT * 6, dtype=np.float32).reshape(COUNT, 6)
    model = graph_of((COUNT, 6), lambda add, constant: add("Add", "x", constant(bias)))
    with pytest.raises(ExportError, match="reads 'c0', which differs between streams"):
        open_batch(model, COUNT)
    with pytest.raises(ExportError, match="'x' begins with an axis of 3, expected 4"):
        open_batch(model, COUNT + 1)


def leak(graph: onnx.GraphProto) -> None:
    """Have every stream's state be the mean of all."""
    place, node = next(
        (place, node) for place, node in enumerate(graph.node) if "trace.out" in node.output
    )
    node.output[0] = "apart"
    mixing = [
        helper.make_node("ReduceMean", ["apart", "first"], ["together"], keepdims=1),
        helper.make_node("Mean", ["apart", "together"], ["trace.out"]),
    ]
    for step, added in enumerate(mixing, place + 1):
        graph.node.insert(step, added)
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))


def recolour(graph: onnx.GraphProto) -> None:
    """Have the graph read another colour."""
    (constant,) = (entry for entry in graph.initializer if entry.name == "one")
    constant.CopyFrom(numpy_helper.from_array(np.array([0]), "one"))


@pytest.mark.parametrize("change", [leak, recolour])
def test_graph_whose_small_batches_differ_is_refused(
    change: Callable[[onnx.GraphProto], None], tmp_path: Path
) -> None:
    content, model = opened(tmp_path)
    compare_open(content, model.SerializeToString())
    change(model.graph)
    with pytest.raises(ExportError, match=r"of \d of 3 streams differs"):
        compare_open(content, model.SerializeToString())

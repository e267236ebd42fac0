"""The operator library inside ONNX Runtime: beside the lowering, and with input that is wrong.

Needs NumPy, onnx and ONNX Runtime only, so that old and new releases can run it (make ort-matrix).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from streamseg.errors import PluginNotFound
from streamseg.plugins.loader import find_library

Array = NDArray[Any]
try:
    LIBRARY = str(find_library())
except PluginNotFound as reason:
    pytest.skip(str(reason), allow_module_level=True)
NAMES = {
    "WindowedCausalConv": ("x", "weight", "bias", "state"),
    "WindowedSelectiveScan": ("u", "dt", "dt_bias", "A", "B", "C", "skip", "z", "state"),
    "UpsampleArgmax": ("logits",),
}
GEOMETRY = {"map_h": 7, "map_w": 9, "window_h": 3, "window_w": 4, "offset_h": 1, "offset_w": 2}
CELLS, TOKENS, CHANNELS, STATES, TAPS = 9, 63, 21, 16, 4


def shapes(op: str) -> list[tuple[int, ...]]:
    row, narrow = (1, TOKENS, CHANNELS), (1, TOKENS, STATES)
    if op == "WindowedCausalConv":
        return [row, (CHANNELS, TAPS), (CHANNELS,), (1, CELLS, CHANNELS, TAPS - 1)]
    if op == "UpsampleArgmax":
        return [(1, 19, 6, 8)]
    vector = (CHANNELS,)
    state = (1, CELLS, CHANNELS, STATES)
    return [row, row, vector, (CHANNELS, STATES), narrow, narrow, vector, row, state]


def arrays(op: str, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    found = [rng.normal(size=shape).astype(np.float32) for shape in shapes(op)]
    if op == "WindowedSelectiveScan":
        found[3] = -np.exp(found[3])
    return found


def build(
    op: str,
    *,
    attributes: dict[str, Any] | None = None,
    types: dict[str, int] | None = None,
    inputs: int | None = None,
    indices: int = 0,
) -> bytes:
    """A model of one node; inputs have no static shape, so that only the kernel can object."""
    names = NAMES[op][:inputs]
    extra = [f"index{i}" for i in range(indices)]
    if attributes is None:
        attributes = {"height": 24, "width": 32} if op == "UpsampleArgmax" else GEOMETRY
    label = op == "UpsampleArgmax"
    outputs = ["labels"] if label else ["y", "next_state"]
    node = helper.make_node(op, [*names, *extra], outputs, domain="streamseg", **attributes)
    kinds = types or {}
    graph = helper.make_graph(
        [node],
        op,
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None)
            for name in names
        ],
        [
            helper.make_tensor_value_info(
                name, TensorProto.UINT8 if label else TensorProto.FLOAT, None
            )
            for name in outputs
        ],
        [helper.make_tensor(name, TensorProto.INT32, [2], [0, 0]) for name in extra],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("streamseg", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())


def session(model: bytes, *, native: bool = True, threads: int = 2) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if native:
        options.register_custom_ops_library(LIBRARY)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, inputs: list[Array], *, native: bool = True) -> list[Array]:
    made = session(model, native=native)
    feed = {entry.name: array for entry, array in zip(made.get_inputs(), inputs)}  # noqa: B905
    return [np.asarray(out) for out in made.run(None, feed)]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of models that carry their lowering; made beforehand where torch is missing."""
    if "STREAMSEG_GRAPHS" in os.environ:
        return Path(os.environ["STREAMSEG_GRAPHS"])
    from tests.plugins.lowering_graphs import write_graphs

    folder = tmp_path_factory.mktemp("graphs")
    write_graphs(folder)
    return folder


@pytest.mark.parametrize("op", sorted(NAMES))
def test_native_and_lowering_agree(op: str, graphs: Path) -> None:
    model = (graphs / f"{op}.onnx").read_bytes()
    stored = onnx.load_from_string(model)
    rng = np.random.default_rng(0)
    inputs = [
        rng.normal(size=[d.dim_value for d in entry.type.tensor_type.shape.dim]).astype(np.float32)
        for entry in stored.graph.input
    ]
    for index, entry in enumerate(stored.graph.input):
        if entry.name == "A":
            inputs[index] = -np.exp(inputs[index])
    with_library, without = run(model, inputs), run(model, inputs, native=False)
    for ours, theirs in zip(with_library, without):  # noqa: B905
        if ours.dtype == np.uint8:
            assert np.mean(ours == theirs) > 0.999
        else:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())
    if op == "WindowedSelectiveScan":
        assert not np.array_equal(with_library[0], without[0]), "the library was not used"


MAPS = {"WindowedCausalConv": ("x",), "WindowedSelectiveScan": ("u", "dt", "B", "C", "z")}


def with_half_maps(model: onnx.ModelProto, op: str) -> onnx.ModelProto:
    """The same graph with float16 maps; weights and state stay float32."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for entry in (*half.graph.input, *half.graph.output):
        if entry.name in (*MAPS[op], "y"):
            entry.type.tensor_type.elem_type = TensorProto.FLOAT16
    return half


@pytest.mark.parametrize("op", sorted(MAPS))
@pytest.mark.parametrize("native", [True, False], ids=["native", "lowering"])
def test_half_maps_compute_as_float32_and_are_rounded_once(
    op: str, native: bool, graphs: Path
) -> None:
    wide = onnx.load(graphs / f"{op}.onnx")
    half = with_half_maps(wide, op).SerializeToString()
    rng = np.random.default_rng(1)
    inputs = []
    for entry in wide.graph.input:
        array = rng.normal(size=[d.dim_value for d in entry.type.tensor_type.shape.dim])
        inputs.append(-np.exp(array) if entry.name == "A" else array)
    inputs = [array.astype(np.float16).astype(np.float32) for array in inputs]
    narrow = [
        array.astype(np.float16) if entry.name in MAPS[op] else array
        for array, entry in zip(inputs, wide.graph.input)  # noqa: B905
    ]
    y, state = run(wide.SerializeToString(), inputs, native=native)
    y_half, state_half = run(half, narrow, native=native)
    assert y_half.dtype == np.float16
    assert state_half.dtype == np.float32
    np.testing.assert_array_equal(state_half, state)
    np.testing.assert_array_equal(y_half, y.astype(np.float16))


def test_without_library_or_lowering_a_node_is_unknown() -> None:
    with pytest.raises(Exception, match="streamseg"):
        session(build("WindowedCausalConv"), native=False)


@pytest.mark.parametrize(
    ("op", "indices"), [("WindowedCausalConv", 3), ("WindowedSelectiveScan", 2)]
)
def test_index_inputs_are_accepted_and_ignored(op: str, indices: int) -> None:
    plain, indexed = run(build(op), arrays(op)), run(build(op, indices=indices), arrays(op))
    assert all(np.array_equal(a, b) for a, b in zip(plain, indexed))  # noqa: B905


@pytest.mark.parametrize("op", sorted(NAMES))
def test_thread_count_does_not_change_a_bit(op: str) -> None:
    feed = dict(zip(NAMES[op], arrays(op)))  # noqa: B905
    one, two = (session(build(op), threads=n).run(None, feed) for n in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two))  # noqa: B905


BAD_SHAPES = [
    (op, index, change)
    for op, names in NAMES.items()
    for index in range(len(names))
    for change in ("rank", "size", "empty")
    # The argmax takes any four sizes above 0.
    if not (op == "UpsampleArgmax" and change == "size")
]


@pytest.mark.parametrize(("op", "index", "change"), BAD_SHAPES)
def test_bad_shapes_are_errors(op: str, index: int, change: str) -> None:
    inputs = arrays(op)
    shape = list(inputs[index].shape)
    if change == "rank":
        inputs[index] = inputs[index][None]
    elif change == "empty":
        inputs[index] = np.zeros([0] * len(shape), np.float32)
    else:
        shape[-1] += 1
        inputs[index] = np.zeros(shape, np.float32)
    with pytest.raises(Exception, match=f"{op}: .*expected"):
        run(build(op), inputs)


@pytest.mark.parametrize("op", sorted(NAMES))
@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT32])
def test_wrong_types_are_errors(op: str, kind: int) -> None:
    with pytest.raises(Exception, match=r"(?i)type"):
        session(build(op, types=dict.fromkeys(NAMES[op], kind)))


@pytest.mark.parametrize("op", sorted(NAMES))
def test_a_missing_input_is_an_error(op: str) -> None:
    with pytest.raises(Exception, match=r"(?i)input"):
        session(build(op, inputs=len(NAMES[op]) - 1))


@pytest.mark.parametrize("op", ["WindowedCausalConv", "WindowedSelectiveScan"])
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("map_h", 0, "map_h is 0"),
        ("map_w", -3, "map_w is -3"),
        ("map_h", 2**62, "map_h is 4611686018427387904"),
        ("window_w", 0, "window_w is 0"),
        ("offset_h", 3, "offset_h is 3, expected 0 to 2"),
        ("offset_w", -1, "offset_w is -1"),
        ("map_w", None, "map_w"),
        ("map_w", 1.5, "(?i)attribute|map_w"),
    ],
)
def test_bad_windows_are_errors(op: str, name: str, value: Any, complaint: str) -> None:
    attributes: dict[str, Any] = {**GEOMETRY, name: value}
    if value is None:
        del attributes[name]
    with pytest.raises(Exception, match=complaint):
        session(build(op, attributes=attributes))


@pytest.mark.parametrize("size", [{"height": 0, "width": 4}, {"height": 4, "width": -1}, {}])
def test_bad_label_sizes_are_errors(size: dict[str, int]) -> None:
    with pytest.raises(Exception, match=r"height|width"):
        session(build("UpsampleArgmax", attributes=size))


def test_too_many_classes_are_an_error() -> None:
    with pytest.raises(Exception, match="classes is 256, expected 1 to 255"):
        run(build("UpsampleArgmax"), [np.zeros((1, 256, 2, 2), np.float32)])


def test_sessions_in_two_threads_stay_exact() -> None:
    attributes = {**GEOMETRY, "window_h": 7, "window_w": 9, "offset_h": 0, "offset_w": 0}
    state = np.random.default_rng(1).normal(size=(1, 1, CHANNELS, STATES)).astype(np.float32)
    op = "WindowedSelectiveScan"
    models = [build(op), build(op, attributes=attributes)]
    inputs = [arrays(op), [*arrays(op)[:-1], state]]
    expected = [run(model, feed) for model, feed in zip(models, inputs)]  # noqa: B905
    wrong: list[int] = []

    def loop(which: int) -> None:
        made = session(models[which])
        for _ in range(200):
            got = made.run(None, dict(zip(NAMES[op], inputs[which])))  # noqa: B905
            if not all(np.array_equal(a, b) for a, b in zip(got, expected[which])):  # noqa: B905
                wrong.append(which)

    workers = [threading.Thread(target=loop, args=(which,)) for which in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []

"""float16 graphs: their types, their size, what stays float32, how near they are to float32."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.shape_inference
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import streamseg
from streamseg.cli.main import run
from streamseg.errors import ExportError
from streamseg.export import export_bundle, save_checkpoint
from streamseg.export.bundles import HALF_PARITY_LIMIT
from streamseg.export.parity import moving_pattern
from streamseg.export.precision import half_graph
from streamseg.export.tensorrt_graph import lowered_graph, plugin_graph
from streamseg.runtime.bundle.bundle import read_bundle
from tests.conftest import TinyBundle
from tests.export import tiny

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
MAPS = {"WindowedCausalConv": {0}, "WindowedSelectiveScan": {0, 1, 4, 5, 7}}


class Types:
    """Element types of a graph's tensors, as ONNX infers them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        entries = (*graph.value_info, *graph.input, *graph.output)
        self.of = {entry.name: entry.type.tensor_type.elem_type for entry in entries}
        self.of.update({entry.name: entry.data_type for entry in graph.initializer})
        self.nodes = graph.node

    def read_by(self, *ops: str) -> set[int]:
        floats = (FLOAT, HALF)
        return {
            self.of[name]
            for node in self.nodes
            if node.op_type in ops
            for name in node.input
            if name and self.of[name] in floats
        }


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_stays_near_float32(family: str, tiny_bundle: TinyBundle) -> None:
    path = tiny_bundle(family, "fp16")
    manifest = read_bundle(path).manifest
    assert manifest.precision_name == "fp16"
    parity = manifest.parity
    assert (parity["limit_of"], parity["limit"]) == ("relative", HALF_PARITY_LIMIT)
    assert 1e-5 < parity["logits_relative"] < 5e-3, "no float16, or not near float32"
    assert parity["state_relative"] < 5e-3
    assert parity["labels_agreement"] > 0.995
    kinds = {"ring": "float16", "key": "float16", "carry": "float32", "given": "float32"}
    assert all(spec.dtype == kinds[spec.kind] for spec in manifest.state)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_types_are_explicit_and_islands_float32(family: str, tiny_bundle: TinyBundle) -> None:
    for content in read_bundle(tiny_bundle(family, "fp16")).graphs.values():
        types = Types(onnx.load_from_string(content))
        assert types.read_by("MatMul", "Conv", "Gemm", "ConvTranspose") == {HALF}
        islands = ("Softmax", "InstanceNormalization", "GridSample", "Pow")
        means = ("ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "UpsampleArgmax", "ArgMax")
        assert types.read_by(*islands, *means) == {FLOAT}
        for node in types.nodes:
            maps = MAPS.get(node.op_type)
            if maps is None:
                continue
            floats = [types.of[name] for name in node.input[: 9 if len(maps) > 1 else 4]]
            assert floats == [HALF if i in maps else FLOAT for i in range(len(floats))]
            assert [types.of[name] for name in node.output] == [HALF, FLOAT]


def test_layer_norms_read_float16_and_those_for_tensorrt_float32(tiny_bundle: TinyBundle) -> None:
    """ONNX says that their statistics are float32; a builder of engines is left no choice."""
    (content,) = read_bundle(tiny_bundle("tv3s", "fp16")).graphs.values()
    model = onnx.load_from_string(content)
    assert HALF in Types(model).read_by("LayerNormalization")
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            assert {a.name: a.i for a in node.attribute}.get("stash_type", FLOAT) == FLOAT
    for adapted in (plugin_graph(model), lowered_graph(model)):
        assert Types(adapted).read_by("LayerNormalization") == {FLOAT}
        written = [name for node in adapted.graph.node for name in node.output if name]
        assert len(written) == len(set(written))


@pytest.mark.parametrize("family", ["cffm", "mask2former"])
def test_weights_take_half_the_bytes(family: str, tiny_bundle: TinyBundle) -> None:
    sizes = [
        sum(
            len(numpy_helper.to_array(entry).tobytes())
            for content in read_bundle(tiny_bundle(family, precision)).graphs.values()
            for entry in onnx.load_from_string(content).graph.initializer
            if entry.data_type in (FLOAT, HALF)
        )
        for precision in ("fp16", "fp32")
    ]
    assert sizes[0] < 0.53 * sizes[1]


@pytest.mark.parametrize("native", [False, True], ids=["lowering", "native"])
@pytest.mark.parametrize("family", ["tv3s", "mrcfa", "mpvss"])
def test_streams_run_and_snapshots_restore(
    family: str, native: bool, tiny_bundle: TinyBundle
) -> None:
    frames = moving_pattern(tiny.SIZE, 5)
    half, full = (tiny_bundle(family, precision) for precision in ("fp16", "fp32"))
    with (
        streamseg.open(half, native=native) as ours,
        streamseg.open(full, native=native) as theirs,
    ):
        for frame in frames[:3]:
            ours.step(frame)
            theirs.step(frame)
        saved = ours.snapshot()
        dtypes = {spec.name: spec.dtype for spec in ours.manifest.state}
        assert {name: str(array.dtype) for name, array in saved.tensors.items()} == dtypes
        found, wanted = ours.step(frames[3]).logits, theirs.step(frames[3]).logits
        assert found is not None
        assert wanted is not None
        assert found.dtype == np.float32
        first = found.copy()
        assert 0 < np.linalg.norm(first - wanted) < 5e-3 * np.linalg.norm(wanted)
        ours.step(frames[4])
        ours.restore(saved)
        again = ours.step(frames[3]).logits
        assert again is not None
        assert np.array_equal(again, first)


def test_a_weight_out_of_range_is_refused() -> None:
    large = numpy_helper.from_array(np.full((2, 2), 7e4, np.float32), "head.weight")
    with pytest.raises(ExportError, match=r"'head.weight' reaches 7e\+04, float16 ends at 65504"):
        half_graph(product(large), ())


def product(weight: onnx.TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", weight.name], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 2])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_converting_twice_is_refused() -> None:
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    half = half_graph(product(weight), ())
    assert [entry.data_type for entry in half.graph.initializer] == [HALF]
    assert half.graph.output[0].type.tensor_type.elem_type == FLOAT
    with pytest.raises(ExportError, match="float16 already"):
        half_graph(half, ())


def test_a_model_that_overflows_is_refused_and_nothing_written(tmp_path: Path) -> None:
    model = tiny.build("tv3s")
    with torch.no_grad():  # weights in range, activations not
        mlp = model.backbone.stages[0].blocks[0].mlp
        mlp.fc1.weight.mul_(3e5)
        mlp.fc2.weight.div_(3e5)
    with pytest.raises(ExportError, match="loses its accuracy in this precision: export fp32"):
        export_bundle(model, tmp_path / "street", size=tiny.SIZE, precision="fp16")
    assert list(tmp_path.iterdir()) == []
    export_bundle(model, tmp_path / "street", size=tiny.SIZE)


def test_command_line_writes_reports_and_refuses_to_calibrate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, street = tmp_path / "x.safetensors", tmp_path / "street"
    save_checkpoint(tiny.build("tv3s"), checkpoint)
    arguments = ["export", str(checkpoint), "--size", "64x96", "--precision", "fp16"]
    message = call(capsys, *arguments, "-o", str(street))
    assert "fp16, " in message
    assert "precision: layers float16, rest float32" in call(capsys, "inspect", str(street))
    clip = tmp_path / "clip"
    clip.mkdir()
    cv2.imwrite(str(clip / "0.png"), moving_pattern(tiny.SIZE, 1)[0])
    message = call(
        capsys,
        *("calibrate", str(street), "--dataset", f"footage:{clip}"),
        *("-o", str(tmp_path / "int8"), "--no-report"),
        code=2,
    )
    assert "is fp16 already; calibrate the float32 bundle" in message


def call(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as caught:
        run(list(arguments))
    message = capsys.readouterr()
    assert caught.value.code == code, message.err
    return message.out + message.err


def test_float16_bundle_records_the_identity_of_its_float32_graphs(tmp_path: Path) -> None:
    model = tiny.build("tv3s")
    full, half = tmp_path / "full", tmp_path / "half"
    export_bundle(model, full, size=tiny.SIZE)
    export_bundle(model, half, size=tiny.SIZE, precision="fp16")
    parity = read_bundle(half).manifest.parity
    assert parity["parent"] == read_bundle(full).identity
    assert parity["state_max_abs"] > read_bundle(full).manifest.parity["state_max_abs"]

"""Tensors outside the file are found wherever they stand; the oracle is the onnx package."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from streamseg.errors import BundleError
from streamseg.runtime.bundle.bundle import MANIFEST, digest, read_bundle
from streamseg.runtime.bundle.onnx_wire import _MESSAGES, require_self_contained
from tests.fuzzing import damage, inputs
from tests.runtime.toy import toy_graph, toy_manifest, write_toy_bundle

# The names that the onnx package gives the messages that the reader walks.
KINDS = {
    "ModelProto": "model",
    "TrainingInfoProto": "training",
    "GraphProto": "graph",
    "FunctionProto": "function",
    "NodeProto": "node",
    "AttributeProto": "attribute",
    "SparseTensorProto": "sparse",
    "TensorProto": "tensor",
}


def outside(location: str = "/etc/passwd", name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def model_of(*nodes: Any, functions: Any = (), **graph: Any) -> onnx.ModelProto:
    body = helper.make_graph(list(nodes), "g", [], [])
    for field, value in graph.items():
        getattr(body, field).extend(value)
    return helper.make_model(body, functions=list(functions))


def body_with(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([], "body", [], [], [tensor])


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def node_with(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Op", [], ["y"], **attributes)


def function_with(*nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("d", "F", [], ["y"], list(nodes), [])


INSIDE = helper.make_tensor("i", TensorProto.INT64, [1], [0])


def function_default() -> onnx.ModelProto:
    function = function_with()
    function.attribute_proto.append(helper.make_attribute("t", outside()))
    return model_of(functions=[function])


def training() -> onnx.ModelProto:
    model = model_of()
    model.training_info.add().algorithm.CopyFrom(body_with(outside()))
    return model


def location_alone() -> onnx.ModelProto:
    tensor = outside()
    del tensor.external_data[:]
    return model_of(initializer=[tensor])


PLACES: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: model_of(initializer=[INSIDE, outside()]),
    "attribute": lambda: model_of(node_with(value=outside())),
    "attribute list": lambda: model_of(node_with(values=[INSIDE, outside()])),
    "subgraph": lambda: model_of(node_with(then_branch=body_with(outside()))),
    "subgraph list": lambda: model_of(node_with(bodies=[body_with(INSIDE), body_with(outside())])),
    "nested subgraph": lambda: model_of(
        node_with(body=helper.make_graph([node_with(body=body_with(outside()))], "b", [], []))
    ),
    "function": lambda: model_of(functions=[function_with(node_with(value=outside()))]),
    "function default": function_default,
    "sparse values": lambda: model_of(sparse_initializer=[sparse(outside(), INSIDE)]),
    "sparse indices": lambda: model_of(sparse_initializer=[sparse(INSIDE, outside())]),
    "sparse attribute": lambda: model_of(node_with(s=sparse(outside(), INSIDE))),
    "sparse attribute list": lambda: model_of(node_with(s=[sparse(INSIDE, outside())])),
    "training": training,
    "location without data": location_alone,
    "memory address": lambda: model_of(initializer=[outside("*/_ORT_MEM_ADDR_/*")]),
    "parent folder": lambda: model_of(initializer=[outside("../x")]),
    "current folder": lambda: model_of(initializer=[outside("x")]),
}


@pytest.mark.parametrize("place", PLACES)
def test_tensor_outside_is_refused(place: str) -> None:
    content = PLACES[place]().SerializeToString()
    with pytest.raises(BundleError, match=r"step\.onnx: tensor 'w' is stored outside the file"):
        require_self_contained(content, "step.onnx")


def test_table_of_messages_is_that_of_the_onnx_package() -> None:
    """Every way from a model to a tensor is walked; new fields of onnx fail here."""
    reaches = {"TensorProto"}
    messages = {
        name: onnx.ModelProto.DESCRIPTOR.file.message_types_by_name[name]
        for name in _all_messages()
    }
    while True:
        more = {
            name
            for name, message in messages.items()
            if any(f.message_type and f.message_type.name in reaches for f in message.fields)
        }
        if more <= reaches:
            break
        reaches |= more
    wanted = {
        KINDS[name]: {
            field.number: KINDS[field.message_type.name]
            for field in messages[name].fields
            if field.message_type and field.message_type.name in reaches
        }
        for name in reaches
    }
    assert wanted == {kind: dict(fields) for kind, fields in _MESSAGES.items()}


def _all_messages() -> list[str]:
    return list(onnx.ModelProto.DESCRIPTOR.file.message_types_by_name)


def tensors_of(message: Any) -> Iterator[TensorProto]:
    """Every tensor in a message, found by reflection."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
    for _field, value in message.ListFields():
        for entry in value if hasattr(value, "__len__") else [value]:
            if hasattr(entry, "ListFields"):
                yield from tensors_of(entry)


def holds_outside(content: bytes) -> bool | None:
    """What the onnx package says; None: it cannot parse the bytes."""
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception:
        return None
    return any(
        t.data_location != TensorProto.DEFAULT or len(t.external_data) for t in tensors_of(model)
    )


def test_damaged_files_are_judged_as_the_onnx_package_does() -> None:
    """Whatever onnx parses and finds external is refused; nothing but BundleError is raised."""
    rng = random.Random(18)
    seeds = [make().SerializeToString() for make in PLACES.values()]
    seeds += [
        toy_graph(key=True),
        toy_graph(key=False),
        model_of(initializer=[INSIDE]).SerializeToString(),
    ]
    counted = {True: 0, False: 0, None: 0}
    for _ in range(inputs(3000)):
        content = damage(rng.choice(seeds), rng)
        external = holds_outside(content)
        counted[external] += 1
        try:
            require_self_contained(content, "g")
        except BundleError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert not external, content
    assert min(counted.values()) > 50, counted


def test_noise_is_refused_or_passed() -> None:
    rng = random.Random(1)
    for _ in range(inputs(3000)):
        try:
            require_self_contained(rng.randbytes(rng.randint(0, 60)), "g")
        except BundleError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_valid_graphs_pass_without_a_copy_of_their_weights() -> None:
    weights = np.zeros((1000, 1000), np.float32)
    tensor = onnx.numpy_helper.from_array(weights, "w")
    require_self_contained(model_of(initializer=[tensor]).SerializeToString(), "g")
    require_self_contained(toy_graph(key=True), "g")


def overlong_tag() -> bytes:
    """The tag of ``external_data`` with bit 32 set, which protobuf's C++ readers drop."""
    tag = (13 << 3 | 2) | 1 << 32
    varint = bytes((tag >> shift & 0x7F) | (0x80 if shift < 28 else 0) for shift in range(0, 35, 7))
    tensor = varint + b"\x00"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return b"\x3a" + bytes([len(graph)]) + graph


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (overlong_tag(), "a field has the tag"),
        (b"\x38\x01", "field 7 of a model is not a message"),
        (b"\x3b\x3c", "has wire type 3"),
        (b"\x3a\x05ab", "longer than what it stands in"),
        (b"\xff" * 12, "a number is cut short"),
        (b"\x04\x00\x00\x00ORTM" + b"\0" * 60, "ONNX Runtime's own format"),
    ],
)
def test_malformed_file_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        require_self_contained(content, "g")


def test_compiled_part_outside_is_refused() -> None:
    content = model_of(helper.make_node("EPContext", [], ["y"], domain="com.microsoft"))
    with pytest.raises(BundleError, match="EPContext"):
        require_self_contained(content.SerializeToString(), "g")


def test_bundle_that_reads_another_file_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself would read the file, although it gets bytes."""
    runtime = pytest.importorskip("onnxruntime")
    model = onnx.load_from_string(toy_graph(key=False))
    moved = next(t for t in model.graph.initializer if t.name == "half")
    moved.Clear()
    moved.CopyFrom(outside("secret", "half"))
    moved.dims[:] = []
    moved.external_data.add(key="length", value="4")
    content = model.SerializeToString()
    (tmp_path / "secret").write_bytes(np.float32(0.25).tobytes())
    monkeypatch.chdir(tmp_path)
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    folder = write_toy_bundle(tmp_path / "toy")
    (folder / "step.onnx").write_bytes(content)
    files = {name: (folder / name).read_bytes() for name in ("warm.onnx", "key.onnx", "step.onnx")}
    manifest = toy_manifest(files)
    assert manifest.files["step.onnx"] == digest(content)
    (folder / MANIFEST).write_text(manifest.to_json())
    with pytest.raises(BundleError, match="tensor 'half' is stored outside the file"):
        read_bundle(folder)

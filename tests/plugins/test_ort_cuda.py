"""The operator library of ONNX Runtime's CUDA provider, its kernels run on the CPU (the twin).

The twin registers for the CPU provider, so that real ONNX Runtime loads it, types its graphs and
runs it; what is left to a GPU is the provider's name, its stream and device memory.
"""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from tests.plugins.cuda_builds import build_cuda, build_twin
from tests.plugins.test_ort import GEOMETRY, NAMES, Array, arrays, build
from tests.plugins.test_ort import run as run_cpu

MAPS = {
    "WindowedCausalConv": ("x",),
    "WindowedSelectiveScan": ("u", "dt", "B", "C", "z"),
    "UpsampleArgmax": ("logits",),
}


def half_types(op: str) -> dict[str, int]:
    types = dict.fromkeys(MAPS[op], TensorProto.FLOAT16)
    return types if op == "UpsampleArgmax" else {**types, "y": TensorProto.FLOAT16}


def build_half(op: str, **options: Any) -> bytes:
    """As ``build``, with float16 maps in and out."""
    import onnx

    model = onnx.load_from_string(build(op, types=half_types(op), **options))
    for entry in model.graph.output:
        if entry.name == "y":
            entry.type.tensor_type.elem_type = TensorProto.FLOAT16
    return bytes(model.SerializeToString())


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(build_twin() / "libstreamseg_ort_cuda_twin.so"))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, inputs: list[Array]) -> list[Array]:
    made = session(model)
    feed = {entry.name: array for entry, array in zip(made.get_inputs(), inputs, strict=True)}
    return [np.asarray(out) for out in made.run(None, feed)]


@pytest.mark.parametrize("op", sorted(NAMES))
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_operators_agree_with_the_cpu_library(op: str, half: bool) -> None:
    inputs = arrays(op)
    given = [
        array.astype(np.float16) if half and name in MAPS[op] else array
        for name, array in zip(NAMES[op], inputs, strict=True)
    ]
    want = run_cpu(build(op), [array.astype(np.float32) for array in given])
    got = run(build_half(op) if half else build(op), given)
    for ours, theirs in zip(got, want, strict=True):
        if ours.dtype == np.uint8:
            assert np.mean(ours == theirs) > 0.999
            continue
        bound = 2e-3 if ours.dtype == np.float16 else 2e-6
        assert np.abs(ours.astype(np.float32) - theirs).max() <= bound * np.abs(theirs).max()
    if op != "UpsampleArgmax":
        assert got[0].dtype == (np.float16 if half else np.float32)
        assert got[1].dtype == np.float32


@pytest.mark.parametrize(
    ("op", "indices"), [("WindowedCausalConv", 3), ("WindowedSelectiveScan", 2)]
)
def test_index_inputs_are_accepted_and_ignored(op: str, indices: int) -> None:
    plain, indexed = run(build(op), arrays(op)), run(build(op, indices=indices), arrays(op))
    assert all(np.array_equal(a, b) for a, b in zip(plain, indexed, strict=True))


@pytest.mark.parametrize("op", sorted(NAMES))
@pytest.mark.parametrize("change", ["rank", "size"])
def test_bad_shapes_are_errors(op: str, change: str) -> None:
    inputs = arrays(op)
    for index in range(len(inputs)):
        wrong = list(inputs)
        if change == "rank":
            wrong[index] = inputs[index][None]
        elif op == "UpsampleArgmax":
            continue  # it takes any four sizes above 0
        else:
            shape = list(inputs[index].shape)
            shape[-1] += 1
            wrong[index] = np.zeros(shape, np.float32)
        with pytest.raises(Exception, match=f"{op}: .*expected"):
            run(build(op), wrong)


@pytest.mark.parametrize("op", sorted(NAMES))
def test_types_that_no_kernel_takes_are_errors(op: str) -> None:
    with pytest.raises(Exception, match=r"(?i)type|implement"):
        session(build(op, types=dict.fromkeys(NAMES[op], TensorProto.DOUBLE)))


def test_mixed_maps_are_an_error_or_right() -> None:
    """float16 and float32 maps in one node: no kernel takes them, whoever notices first.

    ONNX Runtime 1.17 widens the float16 map on its own; that must not change the numbers.
    """
    inputs = arrays("WindowedSelectiveScan")
    inputs[0] = inputs[0].astype(np.float16)
    mixed = build("WindowedSelectiveScan", types={"u": TensorProto.FLOAT16})
    if tuple(map(int, ort.__version__.split(".")[:2])) > (1, 17):
        with pytest.raises(Exception, match=r"(?i)type|implement"):
            run(mixed, inputs)
        return
    wide = [inputs[0].astype(np.float32), *inputs[1:]]
    want = run(build("WindowedSelectiveScan"), wide)
    for ours, theirs in zip(run(mixed, inputs), want, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [("map_h", 0, "map_h is 0"), ("offset_w", 4, "offset_w is 4, expected 0 to 3")],
)
def test_bad_windows_are_errors(name: str, value: int, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        session(build("WindowedCausalConv", attributes={**GEOMETRY, name: value}))


def test_real_library_is_for_the_cuda_provider_and_needs_no_cudart() -> None:
    library = build_cuda()[0] / "libstreamseg_ort_cuda.so"
    content = library.read_bytes()
    assert b"CUDAExecutionProvider" in content
    dynamic = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "libstreamseg_cuda.so" in dynamic
    assert "$ORIGIN" in dynamic
    assert "libcudart" not in dynamic


def test_onnxruntime_loads_the_real_library() -> None:
    """Its operators are for a provider that is not here: registering is fine, running is not."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(build_cuda()[0] / "libstreamseg_ort_cuda.so"))
    with pytest.raises(Exception, match="WindowedCausalConv"):
        ort.InferenceSession(
            build("WindowedCausalConv"), options, providers=["CPUExecutionProvider"]
        )

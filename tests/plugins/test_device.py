"""The CUDA kernels: their source run on the CPU against references, and their build for a GPU."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamseg.errors import BackendError
from streamseg.export.ops import (
    upsample_argmax_reference,
    windowed_causal_conv_reference,
    windowed_selective_scan_reference,
)
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.device import CallSizes, DeviceOps

from .cuda_builds import ROOT, build_cuda, build_twin

Array = NDArray[Any]
# Of the largest value: maps in float32 and float16, and the state, float32 always.
TOLERANCE = {"float32": 2e-6, "float16": 2e-3}
STATE_TOLERANCE = 2e-6
# Real shapes in small: a plain and a shifted grid, cells shorter than a tile and longer than two.
GEOMETRIES = (
    WindowGeometry(8, 12, 4, 4, 0, 0),
    WindowGeometry(8, 12, 4, 4, 2, 2),
    WindowGeometry(10, 7, 5, 3, 1, 2),
    WindowGeometry(9, 10, 9, 10, 0, 0),
    WindowGeometry(1, 3, 1, 1, 0, 0),
)


@pytest.fixture(scope="module")
def twin() -> DeviceOps:
    return DeviceOps(build_twin() / "libstreamseg_cuda_twin.so")


def half_values(array: Array, half: bool) -> Array:
    """Rounded to what a float16 map holds, so that the reference sees the same input."""
    return array.astype(np.float16 if half else np.float32)


def run_conv(
    ops: DeviceOps, inputs: Sequence[Array], geometry: WindowGeometry, half: bool
) -> tuple[Array, Array]:
    x, weight, bias, state = inputs
    y, next_state = np.full_like(x, np.nan), np.full_like(state, np.nan)
    ops.causal_conv(
        CallSizes(astuple(geometry), x.shape[0], x.shape[2], weight.shape[1]),
        half=half,
        **addresses(x=x, weight=weight, bias=bias, state=state, y=y, next_state=next_state),
    )
    return y, next_state


def run_scan(
    ops: DeviceOps, inputs: Sequence[Array], geometry: WindowGeometry, half: bool
) -> tuple[Array, Array]:
    u, state = inputs[0], inputs[8]
    y, next_state = np.full_like(u, np.nan), np.full_like(state, np.nan)
    names = ("u", "dt", "dt_bias", "A", "B", "C", "skip", "z", "state")
    ops.selective_scan(
        CallSizes(astuple(geometry), u.shape[0], u.shape[2], state.shape[3]),
        half=half,
        **addresses(**dict(zip(names, inputs, strict=True)), y=y, next_state=next_state),
    )
    return y, next_state


def addresses(**arrays: Array) -> dict[str, int]:
    assert all(array.flags.c_contiguous for array in arrays.values())
    return {name: array.ctypes.data for name, array in arrays.items()}


def wide(arrays: Sequence[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(array.astype(np.float64)) for array in arrays]


def error(got: Array, expected: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    largest = float((expected if scale is None else scale).abs().max())
    return float(np.abs(got.astype(np.float64) - expected.numpy()).max()) / largest


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("taps", "channels"), [(4, 36), (4, 37), (2, 37), (7, 37)])
def test_conv_kernel_matches_float64(
    twin: DeviceOps, geometry: WindowGeometry, taps: int, channels: int, half: bool
) -> None:
    """Four channels a thread and, with odd sizes, one."""
    rng = np.random.default_rng(taps)
    batch = 2
    inputs = [
        half_values(rng.normal(size=(batch, geometry.tokens, channels)), half),
        rng.normal(size=(channels, taps)).astype(np.float32),
        rng.normal(size=channels).astype(np.float32),
        rng.normal(size=(batch, geometry.cells, channels, taps - 1)).astype(np.float32),
    ]
    want_y, want_state = windowed_causal_conv_reference(*wide(inputs), geometry)
    y, state = run_conv(twin, inputs, geometry, half)
    assert error(y, want_y) <= TOLERANCE["float16" if half else "float32"]
    assert np.array_equal(state, want_state.numpy().astype(np.float32))


def scan_inputs(
    geometry: WindowGeometry, channels: int, states: int, half: bool, *, batch: int = 1
) -> list[Array]:
    rng = np.random.default_rng(states)
    tokens = (batch, geometry.tokens)
    return [
        half_values(rng.normal(size=(*tokens, channels)), half),
        half_values(rng.normal(size=(*tokens, channels)), half),
        rng.uniform(-7, 1, size=channels).astype(np.float32),
        -rng.uniform(0.2, 20, size=(channels, states)).astype(np.float32),
        half_values(rng.normal(size=(*tokens, states)), half),
        half_values(rng.normal(size=(*tokens, states)), half),
        rng.normal(size=channels).astype(np.float32),
        half_values(rng.normal(size=(*tokens, channels)), half),
        rng.normal(size=(batch, geometry.cells, channels, states)).astype(np.float32),
    ]


def check_scan(ops: DeviceOps, inputs: list[Array], geometry: WindowGeometry) -> None:
    half = inputs[0].dtype == np.float16
    want_y, want_state = windowed_selective_scan_reference(*wide(inputs), geometry)
    kept = inputs[8].copy()
    y, state = run_scan(ops, inputs, geometry, half)
    # Without signs nothing cancels: how large the terms of a sum are.
    plain = [t if i in (1, 2, 3, 7) else t.abs() for i, t in enumerate(wide(inputs))]
    scale, state_scale = windowed_selective_scan_reference(*plain, geometry)
    assert error(y, want_y, scale) <= TOLERANCE["float16" if half else "float32"]
    assert error(state, want_state, state_scale) <= STATE_TOLERANCE
    assert np.array_equal(inputs[8], kept)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("states", "channels"), [(16, 24), (16, 21), (5, 24), (40, 40)])
def test_scan_kernel_matches_float64(
    twin: DeviceOps, geometry: WindowGeometry, states: int, channels: int, half: bool
) -> None:
    """In pieces of 16 bytes and, with odd sizes, one value at a time."""
    check_scan(twin, scan_inputs(geometry, channels, states, half, batch=2), geometry)


@settings(max_examples=25)
@given(
    rows=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    cols=st.tuples(st.integers(1, 13), st.integers(1, 6)),
    offsets=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    channels=st.sampled_from([17, 24]),
)
def test_scan_kernel_matches_float64_on_any_grid(
    twin: DeviceOps,
    rows: tuple[int, int],
    cols: tuple[int, int],
    offsets: tuple[int, int],
    channels: int,
) -> None:
    (map_h, window_h), (map_w, window_w) = rows, cols
    geometry = WindowGeometry(
        map_h, map_w, window_h, window_w, offsets[0] % window_h, offsets[1] % window_w
    )
    check_scan(twin, scan_inputs(geometry, channels, 16, half=False), geometry)


def test_scan_of_tiny_steps_keeps_the_state(twin: DeviceOps) -> None:
    """Steps near 0 show an exponential that is not 1 at 0, and a softplus that cancels."""
    geometry = WindowGeometry(6, 6, 6, 6, 0, 0)
    inputs = scan_inputs(geometry, 16, 16, half=False)
    inputs[1][:] = -12.0
    inputs[2][:] = 0.0
    check_scan(twin, inputs, geometry)


@pytest.fixture(params=[0.0, 2.0**-22, -(2.0**-22)], ids=["exact", "above", "below"])
def unit_error(request: pytest.FixtureRequest, twin: DeviceOps) -> Iterator[float]:
    """The twin's special-function unit, off as far as CUDA allows, always to the same side."""
    library = ctypes.CDLL(str(twin.library))
    library.streamseg_cuda_twin_exp2_error.argtypes = [ctypes.c_float]
    library.streamseg_cuda_twin_exp2_error(request.param)
    yield request.param
    library.streamseg_cuda_twin_exp2_error(0.0)


@pytest.mark.parametrize("decay", [1e-6, 1e-4, 3e-3, 0.02, 0.034, 0.04, 0.1, 0.5])
def test_state_at_rest_survives_the_special_function_unit(
    twin: DeviceOps, unit_error: float, decay: float
) -> None:
    """A constant input for many frames: what the decay is off by arrives divided by 1 - decay."""
    geometry = WindowGeometry(8, 16, 8, 16, 0, 0)
    shape, states = (1, geometry.tokens), 4
    step = np.log1p(np.exp(-2.0))  # of the softplus
    inputs = [
        np.ones((*shape, 3), np.float32),
        np.full((*shape, 3), -2.0, np.float32),
        np.zeros(3, np.float32),
        np.full((3, states), -decay / step, np.float32),
        np.ones((*shape, states), np.float32),
        np.ones((*shape, states), np.float32),
        np.zeros(3, np.float32),
        np.ones((*shape, 3), np.float32),
        np.full((1, 1, 3, states), 1 / decay, np.float32),
    ]
    exact = [array.astype(np.float64) for array in inputs]
    a = np.exp(np.log1p(np.exp(exact[1][0, 0, 0])) * exact[3][0, 0])
    # S' = a S + step, so after n tokens S = a^n S0 + step (1 - a^n) / (1 - a).
    frames = 8
    tokens = frames * geometry.tokens
    # What a decay that is the nearest float32 or its neighbour costs, and the bar for the rest;
    # the unit alone, at 2^-22, would cost six times the first.
    bound = 2**-24.5 * min(tokens, 1 / decay) + 1e-5
    state = inputs[8]
    for _ in range(frames):
        _, state = run_scan(twin, [*inputs[:8], state], geometry, False)
    power = a**tokens
    want = power * exact[8][0, 0, 0, 0] + step * (1 - power) / (1 - a)
    assert np.abs(state - want).max() / want <= bound, unit_error


FAULTS = {
    "": "",
    "__syncthreads();  // the tile has arrived": "// the tile has arrived",
    "prepare(tile, first);\n        __syncwarp();": "prepare(tile, first);",
    "scan(tile & 1, first);\n        __syncwarp();": "scan(tile & 1, first);",
    "wait_for_copies();\n": "\n",
    "valid ? dt.x + bias_[0] : -INFINITY": "dt.x + bias_[0]",
}


@pytest.mark.parametrize("fault", sorted(FAULTS), ids=range(len(FAULTS)))
def test_twin_notices_faults_in_the_scan_kernel(fault: str, tmp_path: Path) -> None:
    """Barriers, the wait for copies and the end of a cell, each left out; nothing for the first."""
    source = (ROOT / "plugins/cuda/selective_scan.cuh").read_text()
    assert fault in source
    (tmp_path / "selective_scan.cuh").write_text(source.replace(fault, FAULTS[fault], 1))
    shutil.copy(ROOT / "plugins/cuda/cuda_api.cu", tmp_path)
    folders = (
        tmp_path,
        ROOT / "tests/native/cuda_twin",
        ROOT / "plugins/cuda",
        ROOT / "plugins/src",
    )
    library = tmp_path / "twin.so"
    subprocess.run(
        ["g++", "-std=c++17", "-x", "c++", "-shared", "-fPIC", "-fno-strict-aliasing"]
        + [f"-I{folder}" for folder in folders]
        + ['-DSTREAMSEG_VERSION=""', '-DSTREAMSEG_CUDA_TARGETS=""']
        + [str(tmp_path / "cuda_api.cu"), "-o", str(library)],
        check=True,
    )
    geometry = WindowGeometry(9, 10, 9, 10, 0, 0)
    inputs = scan_inputs(geometry, 24, 16, half=False)
    if not fault:
        check_scan(DeviceOps(library), inputs, geometry)
        return
    with pytest.raises(AssertionError):
        check_scan(DeviceOps(library), inputs, geometry)


@pytest.mark.data
def test_scan_kernel_follows_every_fixture_geometry(twin: DeviceOps, shared: Path) -> None:
    with np.load(shared / "golden/tv3s_scan_blocks.npz") as file:
        config = json.loads(str(file["config"]))
    cases = [case for case in config.values() if isinstance(case, dict)]
    assert len(cases) == 9
    for case in cases:
        window = (case["window_h"], case["window_w"])
        for shift in (0, case["shift"]):
            geometry = WindowGeometry(case["H"], case["W"], *window, shift, shift)
            for half in (False, True):
                inputs = scan_inputs(geometry, 8, case["d_state"], half, batch=case["B"])
                check_scan(twin, inputs, geometry)


@pytest.mark.parametrize("half", [False, True])
def test_upsample_argmax_kernel_matches_reference(twin: DeviceOps, half: bool) -> None:
    rng = np.random.default_rng(0)
    scores = half_values(rng.normal(size=(2, 7, 6, 9)), half)
    labels = np.full((2, 23, 40), 99, dtype=np.uint8)
    twin.upsample_argmax(
        scores.ctypes.data, labels.ctypes.data, shape=scores.shape, size=(23, 40), half=half
    )
    want = upsample_argmax_reference(wide([scores])[0], 23, 40).numpy()
    # float32 may decide a tie of float64 either way
    assert (labels == want).mean() > 0.999
    wide_labels = np.full(labels.shape, -1, dtype=np.int32)
    twin.upsample_argmax(
        scores.ctypes.data,
        wide_labels.ctypes.data,
        shape=scores.shape,
        size=(23, 40),
        half=half,
        wide=True,
    )
    assert np.array_equal(wide_labels, labels)
    scores[:] = 1
    twin.upsample_argmax(
        scores.ctypes.data, labels.ctypes.data, shape=scores.shape, size=(23, 40), half=half
    )
    assert not labels.any()


@pytest.mark.parametrize("half", [False, True])
def test_normalise_kernel_matches_numpy(twin: DeviceOps, half: bool) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (2, 5, 67, 3), dtype=np.uint8)
    out = np.empty((2, 3, 5, 67), dtype=np.float16 if half else np.float32)
    mean, std = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
    twin.normalise(
        frame.ctypes.data, out.ctypes.data, shape=frame.shape, mean=mean, std=std, half=half
    )
    want = (frame.astype(np.float64) - mean) / std
    assert np.abs(out - want.transpose(0, 3, 1, 2)).max() < (2e-3 if half else 1e-6)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(twin: DeviceOps, half: bool, value: float) -> None:
    rng = np.random.default_rng(0)
    values = half_values(rng.normal(size=3001) * 1e3, half)
    values[7] = np.finfo(values.dtype).max
    flag = np.zeros(1, np.int32)
    find = functools.partial(
        twin.find_nonfinite, values.ctypes.data, flag.ctypes.data, count=len(values), half=half
    )
    find()
    assert flag[0] == 0
    for place in (0, 1500, 3000):
        kept, values[place] = values[place], value
        flag[:] = 0
        find()
        assert flag[0] == 1, place
        values[place] = kept


@pytest.mark.parametrize(
    ("geometry", "depth", "message"),
    [
        ((8, 8, 4, 4, 4, 0), 16, "offset_h is 4, expected 0 to 3"),
        ((0, 8, 4, 4, 0, 0), 16, "map_h is 0"),
        ((8, 8, 4, 4, 0, 0), 65, "states is 65, expected 1 to 64"),
    ],
)
def test_bad_sizes_are_refused_by_name(
    twin: DeviceOps, geometry: tuple[int, ...], depth: int, message: str
) -> None:
    names = ("u", "dt", "dt_bias", "A", "B", "C", "skip", "z", "state", "y", "next_state")
    with pytest.raises(BackendError, match=message):
        twin.selective_scan(CallSizes(geometry, 1, 8, depth), **dict.fromkeys(names, 1))


def test_null_array_is_refused(twin: DeviceOps) -> None:
    with pytest.raises(BackendError, match="an array is null"):
        twin.upsample_argmax(0, 1, shape=(1, 2, 3, 4), size=(8, 8))


def test_no_kernel_spills() -> None:
    _, printed = build_cuda()
    kernels = re.findall(r"Compiling entry function '(\w+)'", printed)
    # Eight scans, four convolutions, four argmaxes, two normalisations, two looks for values that
    # are not finite, each for two GPUs.
    assert len(kernels) == 2 * 20
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(spills) >= len(kernels)
    assert set(spills) == {("0", "0")}


def test_library_holds_machine_code_and_ptx() -> None:
    folder, _ = build_cuda()
    library = folder / "libstreamseg_cuda.so"
    assert DeviceOps(library).targets == "80,87+ptx87"
    content = library.read_bytes()
    assert b"sm_80" in content
    assert b"sm_87" in content
    needed = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "libcudart" not in needed


def test_gpu_benchmark_rehearses_on_the_cpu(tmp_path: Path) -> None:
    """All of benchmarks/gpu/run.sh but the GPU: parity of the kernels, of ops and of a frame."""
    script = ROOT / "benchmarks/gpu/run.sh"
    done = subprocess.run(
        [str(script), "--twin"],
        env={**os.environ, "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = json.loads((tmp_path / "kernels.json").read_text())
    assert kernels["parity"]["geometries"] == 18
    assert kernels["state_at_rest"]["share_of_bound"] <= 1
    found = json.loads((tmp_path / "torch.json").read_text())
    assert found["rehearsal"]
    assert "failed" not in found
    assert len(found["bars"]) == 15
    assert all(found["bars"].values())
    assert set(found["scan"]["microseconds"]) >= {"scan float16", "conv float16"}
    assert "prepare.sh" in found["scan"]["mamba_ssm"] or "no GPU" in found["scan"]["mamba_ssm"]


def test_pieces_join_to_the_same_file_or_are_rejected(tmp_path: Path) -> None:
    script, whole = ROOT / "benchmarks/gpu/pieces.sh", tmp_path / "large.whl"
    content = np.random.default_rng(0).bytes(100_000)
    whole.write_bytes(content)
    subprocess.run([script, "split", whole, "8K"], check=True)
    assert not whole.exists()
    pieces = sorted(tmp_path.glob("large.whl.part*"))
    assert len(pieces) == 13
    subprocess.run([script, "join", tmp_path], check=True)
    assert whole.read_bytes() == content
    for fault in (pieces[-1].unlink, lambda: pieces[3].write_bytes(bytes(8192))):
        fault()
        done = subprocess.run(
            [script, "join", tmp_path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "do not make up the file: carry all of them" in done.stderr
        assert not whole.exists()


@pytest.mark.parametrize("name", ["run.sh", "prepare.sh", "pieces.sh", "pycuda.sh"])
def test_gpu_scripts_parse(name: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "benchmarks/gpu" / name)], check=True)

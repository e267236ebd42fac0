"""The TensorRT plugins, driven by a host program with TensorRT's headers alone.

On the CPU twin everywhere; with a GPU the real library as well (marker ``gpu``).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamseg.export.ops import (
    upsample_argmax_reference,
    windowed_causal_conv_reference,
    windowed_selective_scan_reference,
)
from streamseg.export.windows import WindowGeometry

from .cuda_builds import build_cuda, build_twin, need_tensorrt_headers
from .test_device import GEOMETRIES, TOLERANCE, error, half_values, scan_inputs, wide

Array = NDArray[Any]
TYPES = {"float16": "half", "float32": "float", "int32": "int32"}


# Map, window and shift of the scan fixtures, as a plain and as a shifted grid.
FIXTURES = (
    (12, 16, 4, 4, 2),
    (10, 15, 5, 5, 2),
    (14, 21, 7, 7, 3),
    (18, 12, 6, 6, 3),
    (9, 6, 3, 3, 1),
    (8, 8, 4, 4, 1),
    (8, 12, 4, 4, 3),
    (8, 18, 4, 6, 2),
    (40, 60, 20, 20, 10),
)
ALL_GEOMETRIES = GEOMETRIES + tuple(
    WindowGeometry(h, w, window_h, window_w, offset, offset)
    for h, w, window_h, window_w, shift in FIXTURES
    for offset in (0, shift)
)


@pytest.fixture(params=["twin", pytest.param("cuda", marks=pytest.mark.gpu)])
def build(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """The host program, and the plugin library that it drives."""
    need_tensorrt_headers()
    if request.param == "twin":
        return build_twin() / "plugin_host", str(build_twin() / "libstreamseg_tensorrt_twin.so")
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("no NVIDIA GPU on this machine")
    # benchmarks/gpu/run.sh has built them for its GPU.
    folder = Path(os.environ.get("STREAMSEG_CUDA_BUILD") or build_cuda()[0])
    return folder / "plugin_host", str(folder / "libstreamseg_tensorrt.so")


def drive(
    build: tuple[Path, str],
    op: str,
    attributes: dict[str, int],
    *,
    inputs: Sequence[Array] = (),
    outputs: Sequence[tuple[str, tuple[int, ...]]] = (),
    folder: Path | None = None,
) -> list[Array]:
    """Run the host once; no inputs means: expect createPlugin to refuse."""
    program, library = build
    lines = [f"library {library}", f"op {op}"]
    lines += [f"attribute {name} {value}" for name, value in attributes.items()]
    files = []
    for i, array in enumerate(inputs):
        assert folder is not None
        array.tofile(folder / f"in{i}")
        lines.append(f"input {TYPES[str(array.dtype)]} {folder / f'in{i}'} {dims(array.shape)}")
    for i, (dtype, shape) in enumerate(outputs):
        assert folder is not None
        files.append((folder / f"out{i}", dtype, shape))
        lines.append(f"output {TYPES[dtype]} {folder / f'out{i}'} {dims(shape)}")
    if not inputs:
        lines.append("refuse")
    done = subprocess.run(
        [str(program)], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if not inputs:
        assert f"TensorRT plugin {op}: " in done.stderr
    return [np.fromfile(path, dtype).reshape(shape) for path, dtype, shape in files]


def dims(shape: Sequence[int]) -> str:
    return " ".join(map(str, shape))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("geometry", ALL_GEOMETRIES, ids=str)
def test_conv_plugin_keeps_the_contract(
    build: tuple[Path, str], geometry: WindowGeometry, half: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    inputs = [
        half_values(rng.normal(size=(1, geometry.tokens, 24)), half),
        rng.normal(size=(24, 4)).astype(np.float32),
        rng.normal(size=24).astype(np.float32),
        rng.normal(size=(1, geometry.cells, 24, 3)).astype(np.float32),
    ]
    maps = str(inputs[0].dtype)
    y, state = drive(
        build,
        "WindowedCausalConv",
        asdict(geometry),
        inputs=inputs,
        outputs=[(maps, inputs[0].shape), ("float32", inputs[3].shape)],
        folder=tmp_path,
    )
    want_y, want_state = windowed_causal_conv_reference(*wide(inputs), geometry)
    assert error(y, want_y) <= TOLERANCE[maps]
    assert np.array_equal(state, want_state.numpy().astype(np.float32))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("geometry", ALL_GEOMETRIES, ids=str)
def test_scan_plugin_keeps_the_contract(
    build: tuple[Path, str], geometry: WindowGeometry, half: bool, tmp_path: Path
) -> None:
    inputs = scan_inputs(geometry, 24, 16, half)
    maps = str(inputs[0].dtype)
    y, state = drive(
        build,
        "WindowedSelectiveScan",
        asdict(geometry),
        inputs=inputs,
        outputs=[(maps, inputs[0].shape), ("float32", inputs[8].shape)],
        folder=tmp_path,
    )
    want_y, want_state = windowed_selective_scan_reference(*wide(inputs), geometry)
    plain = [t if i in (1, 2, 3, 7) else t.abs() for i, t in enumerate(wide(inputs))]
    scale, state_scale = windowed_selective_scan_reference(*plain, geometry)
    assert error(y, want_y, scale) <= TOLERANCE[maps]
    assert error(state, want_state, state_scale) <= TOLERANCE["float32"]


@pytest.mark.parametrize("half", [False, True])
def test_argmax_plugin_keeps_the_contract(
    build: tuple[Path, str], half: bool, tmp_path: Path
) -> None:
    scores = half_values(np.random.default_rng(0).normal(size=(1, 7, 6, 9)), half)
    (labels,) = drive(
        build,
        "UpsampleArgmax",
        {"height": 24, "width": 40},
        inputs=[scores],
        outputs=[("int32", (1, 24, 40))],
        folder=tmp_path,
    )
    want = upsample_argmax_reference(wide([scores])[0], 24, 40).numpy()
    assert (labels == want).mean() > 0.999


@pytest.mark.parametrize(
    ("op", "change"),
    [
        ("WindowedCausalConv", {"map_w": None}),
        ("WindowedSelectiveScan", {"offset_h": 4}),
        ("WindowedSelectiveScan", {"window_w": 0}),
        ("WindowedCausalConv", {"map_h": 1 << 40}),
        ("UpsampleArgmax", {}),
    ],
)
def test_creator_refuses_missing_and_impossible_attributes(
    build: tuple[Path, str], op: str, change: dict[str, int | None]
) -> None:
    given = asdict(WindowGeometry(8, 12, 4, 4, 0, 0)) | change
    drive(build, op, {name: value for name, value in given.items() if value is not None})


@pytest.mark.data
def test_geometries_are_those_of_the_fixtures(shared: Path) -> None:
    with np.load(shared / "golden/tv3s_scan_blocks.npz") as file:
        config = json.loads(str(file["config"]))
    cases = [case for case in config.values() if isinstance(case, dict)]
    names = ("H", "W", "window_h", "window_w", "shift")
    assert {tuple(case[name] for name in names) for case in cases} == set(FIXTURES)

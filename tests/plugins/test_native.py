"""The native operators against float64 references, at every instruction set of this machine."""

from __future__ import annotations

import _ctypes
import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamseg.errors import BackendError, PluginNotFound
from streamseg.export.ops import (
    upsample_argmax_reference,
    windowed_causal_conv_reference,
    windowed_selective_scan_reference,
)
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.native import NativeOps, load
from tests.plugins.native_builds import build_probes

Array = NDArray[Any]
TOLERANCE = 2e-6  # float32, of the largest value
SHARED = Path(os.environ.get("STREAMSEG_SHARED", Path(__file__).parents[2] / "../shared"))
try:
    OPS = load()
except PluginNotFound as reason:
    pytest.skip(str(reason), allow_module_level=True)


@st.composite
def geometries(draw: st.DrawFn) -> WindowGeometry:
    window_h, window_w = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return WindowGeometry(
        draw(st.integers(1, 13)),
        draw(st.integers(1, 13)),
        window_h,
        window_w,
        draw(st.integers(0, window_h - 1)),
        draw(st.integers(0, window_w - 1)),
    )


CASES = {
    "geometry": geometries(),
    "batch": st.integers(1, 2),
    "channels": st.integers(1, 37),
    "seed": st.integers(0, 2**32 - 1),
}


def conv_inputs(
    geometry: WindowGeometry, batch: int, channels: int, taps: int, seed: int
) -> list[Array]:
    rng = np.random.default_rng(seed)
    shapes = (
        (batch, geometry.tokens, channels),
        (channels, taps),
        (channels,),
        (batch, geometry.cells, channels, taps - 1),
    )
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def scan_inputs(
    geometry: WindowGeometry, batch: int, channels: int, states: int, seed: int
) -> list[Array]:
    rng = np.random.default_rng(seed)
    tokens = (batch, geometry.tokens)
    arrays = [
        rng.normal(size=(*tokens, channels)),
        rng.normal(size=(*tokens, channels)),
        rng.uniform(-7, 1, size=channels),
        -rng.uniform(0.2, 20, size=(channels, states)),
        rng.normal(size=(*tokens, states)),
        rng.normal(size=(*tokens, states)),
        rng.normal(size=channels),
        rng.normal(size=(*tokens, channels)),
        rng.normal(size=(batch, geometry.cells, channels, states)),
    ]
    return [array.astype(np.float32) for array in arrays]


def wide(arrays: list[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(array).double() for array in arrays]


def magnitudes(arrays: list[Array], signed: tuple[int, ...] = ()) -> list[torch.Tensor]:
    """The inputs without signs: nothing cancels, so outputs show how large the terms are."""
    return [t if i in signed else t.abs() for i, t in enumerate(wide(arrays))]


def relative_error(got: Array, expected: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """Largest difference as a share of the largest value of ``scale``, or of ``expected``."""
    want = expected.numpy()
    if want.size == 0:
        assert got.shape == want.shape
        return 0.0
    return float(np.abs(got - want).max() / (expected if scale is None else scale).abs().max())


@settings(max_examples=60)
@given(**CASES, taps=st.sampled_from([1, 2, 4, 7]))
@pytest.mark.parametrize("level", OPS.levels)
def test_conv_matches_float64(
    level: str, geometry: WindowGeometry, batch: int, channels: int, taps: int, seed: int
) -> None:
    inputs = conv_inputs(geometry, batch, channels, taps, seed)
    y, state = windowed_causal_conv_reference(*wide(inputs), geometry)
    OPS.select_level(level)
    got_y, got_state = OPS.causal_conv(*inputs, geometry=astuple(geometry), threads=1)
    scale, _ = windowed_causal_conv_reference(*magnitudes(inputs), geometry)
    assert relative_error(got_y, y, scale) <= TOLERANCE
    assert np.array_equal(got_state, state.float().numpy())


@settings(max_examples=60)
@given(**CASES, states=st.sampled_from([4, 8, 16, 32, 1, 21]))
@pytest.mark.parametrize("level", OPS.levels)
def test_scan_matches_float64(
    level: str, geometry: WindowGeometry, batch: int, channels: int, states: int, seed: int
) -> None:
    inputs = scan_inputs(geometry, batch, channels, states, seed)
    y, state = windowed_selective_scan_reference(*wide(inputs), geometry)
    kept = inputs[8].copy()
    OPS.select_level(level)
    got_y, got_state = OPS.selective_scan(*inputs, geometry=astuple(geometry), threads=1)
    scale = windowed_selective_scan_reference(*magnitudes(inputs, (1, 2, 3, 7)), geometry)
    assert relative_error(got_y, y, scale[0]) <= TOLERANCE
    assert relative_error(got_state, state, scale[1]) <= TOLERANCE
    assert np.array_equal(inputs[8], kept), "the old state was modified"


def test_scan_keeps_its_accuracy_over_a_long_slow_sequence(ops: NativeOps) -> None:
    geometry = WindowGeometry(40, 100, 40, 100, 0, 0)
    inputs = scan_inputs(geometry, 1, 16, 16, 0)
    inputs[2][:] = -6.9  # dt about 1e-3: the state remembers a thousand tokens and more
    inputs[1] *= 0.1
    inputs[4] = np.abs(inputs[4])
    inputs[0] = np.abs(inputs[0])
    y, state = windowed_selective_scan_reference(*wide(inputs), geometry)
    got_y, got_state = ops.selective_scan(*inputs, geometry=astuple(geometry), threads=1)
    assert relative_error(got_y, y) <= TOLERANCE
    assert relative_error(got_state, state) <= TOLERANCE


@settings(max_examples=20)
@given(**CASES, states=st.sampled_from([4, 16]), taps=st.sampled_from([2, 4]))
@pytest.mark.parametrize("level", OPS.levels)
def test_results_do_not_depend_on_the_number_of_threads(
    level: str,
    geometry: WindowGeometry,
    batch: int,
    channels: int,
    states: int,
    taps: int,
    seed: int,
) -> None:
    OPS.select_level(level)
    flat = astuple(geometry)
    conv = conv_inputs(geometry, batch, channels, taps, seed)
    scan = scan_inputs(geometry, batch, channels, states, seed)
    runs = [
        (
            *OPS.causal_conv(*conv, geometry=flat, threads=threads),
            *OPS.selective_scan(*scan, geometry=flat, threads=threads),
            *OPS.causal_conv_backward(conv, conv[0], None, geometry=flat, threads=threads),
            *OPS.selective_scan_backward(scan, scan[0], scan[8], geometry=flat, threads=threads),
        )
        for threads in (1, 2, 5)
    ]
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True))


@settings(max_examples=15, derandomize=True)
@given(**CASES, states=st.sampled_from([4, 16, 5]), with_state=st.booleans())
@pytest.mark.parametrize("level", [*OPS.levels, "float64"])
def test_scan_gradients_match_autograd(
    level: str,
    geometry: WindowGeometry,
    batch: int,
    channels: int,
    states: int,
    with_state: bool,
    seed: int,
) -> None:
    inputs = scan_inputs(geometry, batch, channels, states, seed)
    tensors = [tensor.requires_grad_() for tensor in wide(inputs)]
    outputs = windowed_selective_scan_reference(*tensors, geometry)
    rng = np.random.default_rng(seed + 1)
    incoming = [rng.normal(size=tuple(out.shape)).astype(np.float32) for out in outputs]
    used = 2 if with_state else 1
    want = torch.autograd.grad(
        outputs[:used], tensors, [torch.from_numpy(g).double() for g in incoming[:used]]
    )
    check_gradients(level, "selective_scan_backward", inputs, incoming, want, used, geometry)


@settings(max_examples=15, derandomize=True)
@given(**CASES, taps=st.sampled_from([2, 4, 7]), with_state=st.booleans())
@pytest.mark.parametrize("level", [*OPS.levels, "float64"])
def test_conv_gradients_match_autograd(
    level: str,
    geometry: WindowGeometry,
    batch: int,
    channels: int,
    taps: int,
    with_state: bool,
    seed: int,
) -> None:
    inputs = conv_inputs(geometry, batch, channels, taps, seed)
    tensors = [tensor.requires_grad_() for tensor in wide(inputs)]
    outputs = windowed_causal_conv_reference(*tensors, geometry)
    rng = np.random.default_rng(seed + 1)
    incoming = [rng.normal(size=tuple(out.shape)).astype(np.float32) for out in outputs]
    used = 2 if with_state else 1
    want = torch.autograd.grad(
        outputs[:used], tensors, [torch.from_numpy(g).double() for g in incoming[:used]]
    )
    check_gradients(level, "causal_conv_backward", inputs, incoming, want, used, geometry)


def check_gradients(
    level: str,
    operator: str,
    inputs: list[Array],
    incoming: list[Array],
    want: tuple[torch.Tensor, ...],
    used: int,
    geometry: WindowGeometry,
) -> None:
    kind = np.float64 if level == "float64" else np.float32
    OPS.select_level(None if level == "float64" else level)
    got = getattr(OPS, operator)(
        [array.astype(kind) for array in inputs],
        incoming[0].astype(kind),
        incoming[1].astype(kind) if used == 2 else None,
        geometry=astuple(geometry),
        threads=1,
    )
    # Sums over all tokens and channels: float32 rounding grows with their number.
    limit = 1e-12 if level == "float64" else 1e-5
    for index, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        assert relative_error(ours, theirs) <= limit, f"input {index}"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(1, 40)] * 4),
    classes=st.sampled_from([1, 2, 19, 124, 255]),
    batch=st.integers(1, 2),
)
@pytest.mark.parametrize("level", OPS.levels)
def test_argmax_matches_float64_where_scores_differ_enough(
    level: str, seed: int, sizes: tuple[int, int, int, int], classes: int, batch: int
) -> None:
    h, w, height, width = sizes
    scores = np.random.default_rng(seed).normal(size=(batch, classes, h, w)).astype(np.float32)
    OPS.select_level(level)
    labels = OPS.upsample_argmax(scores, height, width, threads=2)
    full = torch.nn.functional.interpolate(
        torch.from_numpy(scores).double(), (height, width), mode="bilinear", align_corners=False
    )
    chosen = full.gather(1, torch.from_numpy(labels).long()[:, None])[:, 0]
    assert float((full.amax(1) - chosen).max()) <= 1e-5


def test_argmax_gives_a_tie_to_the_lowest_class(ops: NativeOps) -> None:
    plane = np.random.default_rng(0).normal(size=(1, 1, 9, 11)).astype(np.float32)
    scores = np.concatenate([plane - 1, plane, plane, plane], axis=1)
    labels = ops.upsample_argmax(scores, 36, 44)
    assert np.array_equal(labels, np.ones((1, 36, 44), np.uint8))
    assert np.array_equal(
        labels, upsample_argmax_reference(torch.from_numpy(scores), 36, 44).numpy()
    )


def test_exp_is_exact_at_zero_and_within_two_ulp(ops: NativeOps) -> None:
    for base2, low, high in ((False, -87.0, 88.0), (True, -126.0, 0.0)):
        x = np.concatenate(
            [
                np.linspace(low, high, 1_000_003, dtype=np.float32),
                -np.logspace(-40, 0, 100_000, dtype=np.float32),
                np.zeros(1, np.float32),
            ]
        )
        exact = (np.exp2 if base2 else np.exp)(x.astype(np.float64))
        got = build_probes().exp(ops.level, x, base2=base2)
        assert got[-1] == 1.0
        ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
        assert float((np.abs(got - exact) / ulp).max()) <= 2.0


def test_steps_and_rates_of_any_size_decay_the_state(ops: NativeOps) -> None:
    """The products of steps and rates leave the range of float32; the state must not become NaN."""
    steps = np.array([-80, 0, 40, 1e6, 1e9, 1e20, 3e38], np.float32)
    rates = -np.array([0, 1e-3, 1, 1e6, 1e10, 1e20, 3e38, 0.5], np.float32)
    geometry = WindowGeometry(1, 1, 1, 1, 0, 0)
    inputs = scan_inputs(geometry, 1, len(steps), len(rates), 0)
    inputs[0][:], inputs[1][:], inputs[2][:], inputs[3][:] = 0, steps, 0, rates
    inputs[8][:] = 1
    state = ops.selective_scan(*inputs, geometry=astuple(geometry))[1]
    wide_steps = np.logaddexp(0, steps.astype(np.float64))
    want = np.exp(wide_steps[:, None] * rates.astype(np.float64))
    assert np.abs(state[0, 0] - want).max() <= 4e-7
    incoming = np.zeros_like(inputs[0]), np.ones_like(inputs[8])
    gradients = ops.selective_scan_backward(inputs, *incoming, geometry=astuple(geometry))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert np.abs(gradients[8][0, 0] - want).max() <= 4e-7


def test_library_of_another_streamseg_is_refused() -> None:
    with pytest.raises(PluginNotFound, match=r"another streamseg .*Build it again"):
        NativeOps(Path(_ctypes.__file__))


def test_nan_is_passed_on(ops: NativeOps) -> None:
    nothing = np.full(19, np.nan, np.float32)
    for base2 in (False, True):
        assert np.isnan(build_probes().exp(ops.level, nothing, base2=base2)).all()
    geometry = WindowGeometry(2, 3, 2, 3, 0, 0)
    for poisoned in (0, 1, 4, 7, 8):
        inputs = scan_inputs(geometry, 1, 5, 4, 0)
        inputs[poisoned][:] = np.nan
        y, _ = ops.selective_scan(*inputs, geometry=astuple(geometry))
        assert np.isnan(y).all(), f"input {poisoned}"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"state": (1, 4, 5, 3)}, r"state has shape \[1, 4, 5, 3\], expected \[1, 4, 5, 4\]"),
        ({"B": (1, 35, 4)}, "B has shape"),
        ({"u": (36, 5)}, "u has shape"),
        ({"geometry": (6, 6, 3, 3, 3, 0)}, "offset_h is 3, expected 0 to 2"),
        ({"geometry": (0, 6, 3, 3, 0, 0), "u": (1, 0, 5)}, "map_h is 0, expected 1"),
        ({"geometry": (6, 6, 3)}, "geometry has 3 numbers, expected 6"),
        ({"A": 1.0}, r"A\[0, 0\] is 1.000000, expected at most 0"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_scan_refuses_bad_input(changes: dict[str, Any], complaint: str) -> None:
    geometry = WindowGeometry(6, 6, 3, 3, 0, 0)
    names = ("u", "dt", "dt_bias", "A", "B", "C", "skip", "z", "state")
    inputs = dict(zip(names, scan_inputs(geometry, 1, 5, 4, 0), strict=True))
    options: dict[str, Any] = {"geometry": astuple(geometry), "threads": 1}
    for name, change in changes.items():
        if name in options:
            options[name] = change
        elif isinstance(change, tuple):
            inputs[name] = np.zeros(change, np.float32)
        else:
            inputs[name] = np.full_like(inputs[name], change)
    with pytest.raises(BackendError, match=complaint):
        OPS.selective_scan(*inputs.values(), **options)


def test_levels_are_refused_by_name() -> None:
    with pytest.raises(BackendError, match="instruction set 'mmx' is not available"):
        OPS.select_level("mmx")


@pytest.mark.data
@pytest.mark.skipif(
    not (SHARED / "golden/tv3s_scan_blocks.npz").is_file(), reason="needs STREAMSEG_SHARED"
)
def test_scan_block_fixtures(ops: NativeOps) -> None:
    fixtures = np.load(SHARED / "golden/tv3s_scan_blocks.npz")
    config = json.loads(str(fixtures["config"]))
    cases = [name for name in config if isinstance(config[name], dict)]
    assert len(cases) == 9
    for name in cases:
        case = {
            key[len(name) + 1 :]: fixtures[key] for key in fixtures if key.startswith(f"{name}/")
        }
        check_fixture(ops, config[name], case, name)


def check_fixture(
    ops: NativeOps, config: dict[str, Any], case: dict[str, Array], name: str
) -> None:
    """Every layer from the fixture's own residual: projections by NumPy, the rest native."""
    tokens, embed = config["H"] * config["W"], config["embed_dim"]
    for layer in range(config["n_layers"]):
        shift = config["shift"] if layer % 2 else 0
        geometry = (config["H"], config["W"], config["window_h"], config["window_w"], shift, shift)
        weights = {
            key.removeprefix(f"param/layers.{layer}."): value.astype(np.float32)
            for key, value in case.items()
            if key.startswith(f"param/layers.{layer}.")
        }
        cells = ops.count_cells(geometry)
        conv = np.zeros((config["B"], cells, config["d_inner"], config["d_conv"] - 1), np.float32)
        scan = np.zeros((config["B"], cells, config["d_inner"], config["d_state"]), np.float32)
        for frame in range(config["T"]):
            residual = case[f"inter/layer{layer}_residual"][frame]
            x = residual.reshape(config["B"], embed, tokens).transpose(0, 2, 1)
            mean = (x**2).mean(-1, keepdims=True)
            x = x / np.sqrt(mean + config["norm_eps"]) * weights["norm.weight"]
            y, conv, scan = mix(ops, weights, x, conv, scan, geometry)
            hidden = case[f"inter/layer{layer}_hidden"][frame].reshape(config["B"], embed, tokens)
            np.testing.assert_allclose(y, hidden.transpose(0, 2, 1), atol=3e-6, err_msg=name)
            for kind, state in (("conv", conv), ("ssm", scan)):
                stored = case[f"state/{kind}/layer{layer}"][frame]
                stored = stored.reshape(config["B"], cells, *stored.shape[-2:])
                wanted = stored[..., 1:] if kind == "conv" else stored
                np.testing.assert_allclose(state, wanted, atol=3e-6, err_msg=f"{name} {kind}")


def test_library_has_the_tile_instructions() -> None:
    """No processor here runs them. Sums are tiles 0 to 3, activations 4 and 5, weights 6 and 7."""
    objdump = shutil.which("objdump")
    if objdump is None or platform.machine() != "x86_64":
        pytest.skip("needs objdump and a library for x86-64")
    disassemble = [objdump, "-d", "-M", "intel", "--no-show-raw-insn", str(OPS.library)]
    text = subprocess.run(disassemble, capture_output=True, text=True, check=True).stdout
    if "vdpbf16ps" not in text:
        pytest.skip("the compiler of this library has no AVX-512 BF16")
    products = re.findall(r"\b(tdp\w+)\s+tmm(\d),tmm(\d),tmm(\d)", text)
    assert {product[0] for product in products} == {"tdpbusd", "tdpbf16ps"}
    for _, sums, a, b in products:
        assert int(sums) == 2 * (int(a) - 4) + int(b) - 6
    others = ("ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored")
    assert all(re.search(rf"\b{name}\b", text) for name in others)


def mix(
    ops: NativeOps,
    weights: dict[str, Array],
    x: Array,
    conv: Array,
    scan: Array,
    geometry: tuple[int, ...],
) -> tuple[Array, Array, Array]:
    w = {key.removeprefix("mixer."): value for key, value in weights.items()}
    inner, states = w["A_log"].shape
    projected = x @ w["in_proj.weight"].T
    u, conv = ops.causal_conv(
        projected[..., :inner], w["conv1d.weight"][:, 0], w["conv1d.bias"], conv, geometry=geometry
    )
    parts = u @ w["x_proj.weight"].T
    rank = parts.shape[-1] - 2 * states
    y, scan = ops.selective_scan(
        u,
        parts[..., :rank] @ w["dt_proj.weight"].T,
        w["dt_proj.bias"],
        -np.exp(w["A_log"]),
        parts[..., rank : rank + states],
        parts[..., rank + states :],
        w["D"],
        projected[..., inner:],
        scan,
        geometry=geometry,
    )
    return y @ w["out_proj.weight"].T, conv, scan

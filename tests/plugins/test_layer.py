"""The fused Mamba layer against float64, at every instruction set of this machine and precision."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamseg.errors import BackendError, PluginNotFound
from streamseg.export.models.mamba import BlocksConfig, TemporalLayer
from streamseg.export.ops_reference import windowed_mamba_layer_reference
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.native import NativeOps, load

Array = NDArray[Any]
# Norm of the error as a share of the norm of what the layer adds, and of the state.
TOLERANCE = {"fp32": (2e-6, 2e-6), "bf16": (6e-3, 1e-2), "int8": (4e-2, 4e-2)}
GEOMETRIES = (
    WindowGeometry(7, 9, 3, 4, 1, 2),
    WindowGeometry(13, 12, 12, 11, 0, 0),  # cells of more than one chunk
    WindowGeometry(15, 22, 2, 2, 1, 1),  # many cells to a chunk, of one to four tokens
    WindowGeometry(1, 1, 1, 1, 0, 0),
)
SIZES = {"small": (21, 37, 5, 3), "whole": (96, 192, 16, 6)}  # features, channels, states, rank
try:
    OPS = load()
except PluginNotFound as reason:
    pytest.skip(str(reason), allow_module_level=True)


def layer_inputs(
    geometry: WindowGeometry, size: tuple[int, int, int, int], *, batch: int = 2, seed: int = 0
) -> list[Array]:
    """The operator's inputs, in its order."""
    features, channels, states, rank = size
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return rng.normal(size=shape) * scale

    arrays = [
        normal(batch, geometry.tokens, features),
        1 + normal(features, scale=0.1),
        normal(features, channels, scale=features**-0.5),
        normal(features, channels, scale=features**-0.5),
        normal(channels, 4, scale=0.4),
        normal(channels, scale=0.1),
        normal(rank, channels, scale=rank**-0.5),
        normal(channels) - 3,
        -rng.uniform(0.5, states, size=(channels, states)),
        normal(channels, rank + 2 * states, scale=channels**-0.5),
        normal(channels),
        normal(channels, features, scale=channels**-0.5),
        normal(batch, geometry.cells, channels, 3, scale=0.5),
        normal(batch, geometry.cells, channels, states, scale=0.2),
    ]
    return [array.astype(np.float32) for array in arrays]


def run(
    ops: NativeOps, inputs: list[Array], geometry: WindowGeometry, precision: str, threads: int = 1
) -> tuple[Array, ...]:
    layer = ops.pack_layer(*inputs[1:12], precision=precision)
    states = (inputs[0], inputs[12], inputs[13])
    return layer.run(*states, geometry=astuple(geometry), threads=threads)


def error(got: Array, want: Array) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_layer_follows_the_reference(
    ops: NativeOps, geometry: WindowGeometry, size: str, precision: str
) -> None:
    inputs = layer_inputs(geometry, SIZES[size])
    before = [array.copy() for array in inputs]
    y, conv, scan = run(ops, inputs, geometry, precision)
    wide = [torch.from_numpy(array).double() for array in inputs]
    want = [t.numpy() for t in windowed_mamba_layer_reference(*wide, geometry)]
    added, state = TOLERANCE[precision]
    assert error(y - inputs[0], want[0] - inputs[0]) <= added
    assert error(conv, want[1]) <= state
    assert error(scan, want[2]) <= state
    assert all(np.array_equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_layer_follows_the_model(ops: NativeOps) -> None:
    """The network's own layer, which is compared with mamba_ssm's reference elsewhere."""
    torch.manual_seed(0)
    config = BlocksConfig(32, d_inner=64, d_state=16, d_conv=4, dt_rank=2)
    layer, geometry = TemporalLayer(config).double(), WindowGeometry(6, 8, 4, 4, 2, 2)
    torch.nn.init.normal_(layer.norm.weight, 1, 0.1)
    mixer, inner = layer.mixer, 64
    x = torch.randn(1, geometry.tokens, 32).double()
    state = (
        torch.randn(1, geometry.cells, inner, 3).double(),
        torch.randn(1, geometry.cells, inner, 16).double(),
    )
    with torch.no_grad():
        (added,), after = mixer([layer.norm(x)], state, geometry)
        weights = [
            layer.norm.weight,
            mixer.in_proj.weight[:inner].T,
            mixer.in_proj.weight[inner:].T,
            mixer.conv1d.weight.squeeze(1),
            mixer.conv1d.bias,
            mixer.dt_proj.weight.T,
            mixer.dt_proj.bias,
            -torch.exp(mixer.A_log),
            mixer.x_proj.weight.T,
            mixer.D,
            mixer.out_proj.weight.T,
        ]
    packed = ops.pack_layer(*(weight.detach().float().numpy() for weight in weights))
    got = packed.run(
        *(tensor.float().numpy() for tensor in (x, *state)), geometry=astuple(geometry)
    )
    for ours, theirs in zip(got, (x + added, *after), strict=True):
        assert error(ours, theirs.numpy()) <= 2e-6


@pytest.mark.parametrize("precision", TOLERANCE)
def test_threads_do_not_change_the_result(ops: NativeOps, precision: str) -> None:
    geometry = GEOMETRIES[0]
    inputs = layer_inputs(geometry, SIZES["small"])
    one, three = (run(ops, inputs, geometry, precision, threads) for threads in (1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.parametrize("precision", TOLERANCE)
def test_small_cells_are_computed_as_if_alone(ops: NativeOps, precision: str) -> None:
    """They are multiplied together; a cell that is not finite leaves the others as they were."""
    geometry, alone = WindowGeometry(8, 12, 2, 2, 0, 0), WindowGeometry(2, 2, 2, 2, 0, 0)
    inputs = layer_inputs(geometry, SIZES["small"])
    inputs[0][:, 0, 3] = np.nan
    whole = run(ops, inputs, geometry, precision)
    for cell in range(1, geometry.cells):
        top, left = 2 * (cell // 6), 2 * (cell % 6)
        tokens = [row * 12 + column for row in (top, top + 1) for column in (left, left + 1)]
        ours = [inputs[0][:, tokens], *inputs[1:12], inputs[12][:, [cell]], inputs[13][:, [cell]]]
        y, conv, scan = run(ops, ours, alone, precision)
        assert np.array_equal(whole[0][:, tokens], y)
        assert np.array_equal(whole[1][:, [cell]], conv)
        assert np.array_equal(whole[2][:, [cell]], scan)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_reach_the_result(ops: NativeOps, precision: str, value: float) -> None:
    geometry = WindowGeometry(2, 3, 2, 3, 0, 0)
    inputs = layer_inputs(geometry, SIZES["small"], batch=1)
    inputs[0][0, 0, 5] = value
    y, _, scan = run(ops, inputs, geometry, precision)
    assert np.isnan(y[0, 0]).any()
    assert np.isnan(scan).any()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_frame_of_zeros_is_segmented(ops: NativeOps, precision: str) -> None:
    geometry = GEOMETRIES[0]
    inputs = layer_inputs(geometry, SIZES["small"])
    inputs[0][:] = 0
    y, *_ = run(ops, inputs, geometry, precision)
    wide = [torch.from_numpy(array).double() for array in inputs]
    want = windowed_mamba_layer_reference(*wide, geometry)[0].numpy()
    assert np.isfinite(y).all()
    assert np.abs(y - want).max() <= 1e-3


@pytest.mark.parametrize(
    ("index", "shape", "complaint"),
    [
        (9, (37, 14), r"x_proj has shape \[37, 14\], expected \[37, 13\]"),
        (11, (36, 21), "out_proj has shape"),
        (0, (2, 62, 21), r"x has shape \[2, 62, 21\], expected \[\?, 63, 21\]"),
        (13, (2, 12, 37, 6), "scan_state has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    index: int, shape: tuple[int, ...], complaint: str
) -> None:
    geometry = GEOMETRIES[0]
    inputs = layer_inputs(geometry, SIZES["small"])
    inputs[index] = np.zeros(shape, np.float32)
    with pytest.raises(BackendError, match=complaint):
        run(OPS, inputs, geometry, "fp32")


def test_growing_states_are_refused() -> None:
    inputs = layer_inputs(GEOMETRIES[0], SIZES["small"])
    inputs[8][2, 1] = 0.5
    with pytest.raises(BackendError, match=r"A\[2, 1\] is 0.500000, expected at most 0"):
        run(OPS, inputs, GEOMETRIES[0], "int8")


def test_integer_sums_that_could_overflow_are_refused() -> None:
    geometry = WindowGeometry(1, 1, 1, 1, 0, 0)
    inputs = layer_inputs(geometry, (2, 65537, 1, 1), batch=1)
    with pytest.raises(BackendError, match="at most 65536 channels"):
        run(OPS, inputs, geometry, "int8")
    assert np.isfinite(run(OPS, inputs, geometry, "bf16")[0]).all()


def test_largest_integer_sums_fit(ops: NativeOps) -> None:
    """Every activation and weight of a product at the end of the 8-bit range, both signs."""
    features, channels = 1024, 3
    geometry = WindowGeometry(1, 1, 1, 1, 0, 0)
    for sign in (1, -1):
        inputs = layer_inputs(geometry, (features, channels, 1, 1), batch=1)
        inputs[0][:], inputs[1][:], inputs[2][:] = 1, 1, sign / features
        y, conv, _ = run(ops, inputs, geometry, "int8")
        wide = [torch.from_numpy(array).double() for array in inputs]
        want = [t.numpy() for t in windowed_mamba_layer_reference(*wide, geometry)]
        assert error(conv[..., -1], want[1][..., -1]) <= TOLERANCE["int8"][1]
        assert error(y - inputs[0], want[0] - inputs[0]) <= TOLERANCE["int8"][0]

"""The NumPy computation of the operators' cases agrees with mamba_ssm's own reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conformance import operators
from tests.conformance.operators import CHANNELS, FEATURES, RANK, STATES, TAPS, Layer, cells_of

torch = pytest.importorskip("torch", reason="mamba_ssm's reference is written in it")


def run_cell(layer: Layer, tokens: np.ndarray, scan: Callable[..., Any]) -> np.ndarray:
    """A layer on one cell's tokens of all frames, as one sequence ``[tokens, FEATURES]``."""
    x = torch.from_numpy(tokens).float()
    weights = {name: torch.from_numpy(value) for name, value in vars(layer).items()}
    normed = torch.nn.functional.rms_norm(x, (FEATURES,), weights["norm"], operators.EPSILON)
    u, z = (normed @ weights[name] for name in ("u_proj", "z_proj"))
    taps = weights["conv_weight"][:, None]
    padded = torch.nn.functional.pad(u.T[None], (TAPS - 1, 0))
    v = torch.nn.functional.silu(
        torch.nn.functional.conv1d(padded, taps, weights["conv_bias"], groups=CHANNELS)
    )
    low, b, c = (v[0].T @ weights["x_proj"]).split((RANK, STATES, STATES), 1)
    y = scan(
        v,
        (low @ weights["dt_proj"]).T[None],
        weights["A"],
        b.T[None],
        c.T[None],
        D=weights["skip"],
        z=z.T[None],
        delta_bias=weights["dt_bias"],
        delta_softplus=True,
    )
    found: np.ndarray = (x + y[0].T @ weights["out_proj"]).numpy()
    return found


@pytest.mark.parametrize(("layer", "offset"), [(0, 0), (1, 1)])
def test_layers_equal_mamba_over_whole_sequences(
    selective_scan_ref: Callable[..., Any], layer: int, offset: int
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.normal(0, 1, (6, operators.ROWS * operators.COLUMNS, FEATURES))
    weights, memory = operators.LAYERS[layer], {}
    steps = [operators.run_layer(weights, frame, offset, memory, "x") for frame in frames]
    for cell in cells_of(offset):
        tokens = np.concatenate([frame[cell] for frame in frames])
        found = np.concatenate([step[cell] for step in steps])
        # The reference computes in float32.
        expected = run_cell(weights, tokens, selective_scan_ref)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_scores_are_enlarged_as_torch_does() -> None:
    scores = np.random.default_rng(1).normal(0, 1, (3, operators.ROWS, operators.COLUMNS))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None], scale_factor=2, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(operators.enlarge(scores), expected[0].numpy(), atol=1e-12)

"""The scan as Triton kernels, on a GPU or in Triton's interpreter, against PyTorch in float64."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are made

from streamseg.training.triton_scan import selective_scan  # noqa: E402


def reference(u, delta, A, B, C, D, *, z, delta_bias, delta_softplus):  # noqa: N803
    assert delta_softplus
    step = F.softplus(delta + delta_bias[:, None])
    state = u.new_zeros(*u.shape[:2], A.shape[1])
    outputs = []
    for t in range(u.shape[2]):
        state = torch.exp(step[:, :, t, None] * A) * state
        state = state + (step * u)[:, :, t, None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    return (torch.stack(outputs, dim=2) + D[:, None] * u) * F.silu(z)


@pytest.mark.parametrize(
    ("sequences", "channels", "states", "length"),
    [(3, 16, 4, 6), (2, 70, 16, 5), (1, 5, 3, 1), (2, 129, 1, 2)],
)
def test_scan_and_its_gradients_equal_the_reference(sequences, channels, states, length):
    draws = torch.Generator().manual_seed(0)
    shapes = {
        "u": (sequences, channels, length),
        "delta": (sequences, channels, length),
        "A": (channels, states),
        "B": (sequences, states, length),
        "C": (sequences, states, length),
        "D": (channels,),
        "z": (sequences, channels, length),
        "delta_bias": (channels,),
    }
    drawn = {
        name: torch.randn(shape, generator=draws, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    drawn["A"] = -drawn["A"].exp()
    drawn["delta"][0, 0, 0] = 30.0  # where softplus is the identity
    weight = torch.randn(shapes["u"], generator=draws, dtype=torch.float64)

    def run(scan, dtype, device):
        inputs = {name: value.to(device, dtype).requires_grad_() for name, value in drawn.items()}
        y = scan(**inputs, delta_softplus=True)
        (y * weight.to(y)).sum().backward()
        return [y.detach(), *(value.grad for value in inputs.values())]

    found = run(selective_scan, torch.float32, DEVICE)
    expected = run(reference, torch.float64, "cpu")
    for name, one, other in zip(("y", *shapes), found, expected, strict=True):
        largest = other.abs().max().clamp(min=1.0)
        error = (one.cpu().double() - other).abs().max() / largest
        assert error < 2e-5, name


def test_scan_without_softplus_is_refused():
    empty = torch.zeros(1, 1, 1)
    row = torch.zeros(1)
    with pytest.raises(ValueError, match="delta_softplus is False"):
        selective_scan(
            empty, empty, row[None], empty, empty, row, z=empty, delta_bias=row,
            delta_softplus=False,
        )  # fmt: skip

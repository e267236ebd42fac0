"""The torch ops on the native library: values, gradients, and graphs kept whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import Tensor

from streamseg.export import ops
from streamseg.export.ops_native import NativeKernels, find_native
from streamseg.export.windows import WindowGeometry

GEOMETRY = WindowGeometry(5, 7, 3, 4, 1, 2)
CASES = ("conv", "scan")


@pytest.fixture(autouse=True)
def _needs_the_library() -> None:
    if find_native() is None:
        pytest.skip("the native library is not built: make native")


def arguments(case: str, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    d, n, k, tokens, cells = 3, 4, 4, GEOMETRY.tokens, GEOMETRY.cells
    row, narrow = (2, tokens, d), (2, tokens, n)
    shapes: tuple[tuple[int, ...], ...] = (row, (d, k), (d,), (2, cells, d, k - 1))
    if case == "scan":
        shapes = (row, row, (d,), (d, n), narrow, narrow, (d,), row, (2, cells, d, n))
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    if case == "scan":
        tensors[3] = -tensors[3].exp()
    return tensors


def operator(case: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if case == "conv":
        return ops.windowed_causal_conv, ops.windowed_causal_conv_reference
    return ops.windowed_selective_scan, ops.windowed_selective_scan_reference


def call(case: str, *tensors: Tensor) -> Any:
    return operator(case)[0](*tensors, *astuple(GEOMETRY))


@pytest.mark.parametrize("case", CASES)
def test_gradients_pass_gradcheck(case: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in arguments(case, torch.float64)]
    assert NativeKernels().serves(*tensors)
    assert torch.autograd.gradcheck(lambda *t: call(case, *t), tensors)


@pytest.mark.parametrize("case", CASES)
def test_float32_follows_the_reference_in_float64(case: str) -> None:
    """Three frames with carried state, the loss on the last: gradients flow through the state."""
    found = []
    for dtype, step in (
        (torch.float32, lambda t: call(case, *t)),
        (torch.float64, lambda t: operator(case)[1](*t, GEOMETRY)),
    ):
        tensors = [t.to(dtype).requires_grad_() for t in arguments(case, torch.float32)]
        state = tensors[-1]
        for _ in range(3):
            y, state = step([*tensors[:-1], state])
        (y.square().sum() + state.sum()).backward()
        found.append((y, state, *(tensor.grad for tensor in tensors)))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_compile_keeps_the_operator_in_one_piece(case: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in arguments(case, torch.float32)]

    def loss(*inputs: Tensor) -> Tensor:
        y, state = call(case, *inputs)
        return y.sin().sum() + state.cos().sum()

    eager = torch.autograd.grad(loss(*tensors), tensors)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(torch.autograd.grad(compiled(*tensors), tensors), eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_operators_pass_torchs_own_checks(case: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in arguments(case, torch.float32)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator(case)[0], (*tensors, *astuple(GEOMETRY)), test_utils=checks)


def test_gaps_in_memory_are_skipped() -> None:
    tensors = arguments("scan", torch.float32)
    wide = torch.cat([tensors[0], tensors[7]], dim=-1)
    u, z = wide.split(3, dim=-1)
    apart = call("scan", *tensors)
    together = call("scan", u, *tensors[1:7], z, tensors[8])
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))


def test_half_precision_maps_take_the_reference() -> None:
    tensors = arguments("conv", torch.float32)
    half = [tensors[0].half(), *tensors[1:]]
    assert not NativeKernels().serves(*half)
    y, _ = call("conv", *half)
    assert y.dtype == torch.float16
    expected, _ = ops.windowed_causal_conv_reference(*half, GEOMETRY)
    assert torch.equal(y, expected)

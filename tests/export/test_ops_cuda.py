"""The CUDA operators behind the torch ops: the kernels' twin in the library's place, on the CPU."""

from __future__ import annotations

from dataclasses import astuple

import pytest
import torch

from streamseg.export import ops, ops_cuda, ops_native
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.device import DeviceOps
from tests.plugins.cuda_builds import build_twin

GEOMETRY = WindowGeometry(7, 9, 3, 4, 1, 2)


@pytest.fixture(autouse=True)
def _twin(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = DeviceOps(build_twin() / "libstreamseg_cuda_twin.so")
    monkeypatch.setattr(ops_cuda, "DEVICE", "cpu")
    monkeypatch.setattr(ops_cuda, "find_cuda", lambda: twin)
    monkeypatch.setattr(ops_native, "find_native", lambda: None)


def conv_inputs(maps: torch.dtype) -> list[torch.Tensor]:
    x = torch.randn(2, GEOMETRY.tokens, 24).to(maps)
    return [x, torch.randn(24, 4), torch.randn(24), torch.randn(2, GEOMETRY.cells, 24, 3)]


def scan_inputs(maps: torch.dtype) -> list[torch.Tensor]:
    wide, narrow = (2, GEOMETRY.tokens, 24), (2, GEOMETRY.tokens, 16)
    u, dt, z = (torch.randn(wide).to(maps) for _ in range(3))
    B, C = (torch.randn(narrow).to(maps) for _ in range(2))  # noqa: N806
    A = -torch.rand(24, 16) - 0.1  # noqa: N806
    state = torch.randn(2, GEOMETRY.cells, 24, 16)
    return [u, dt, torch.randn(24) - 3, A, B, C, torch.randn(24), z, state]


@pytest.mark.parametrize("maps", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("op", ["conv", "scan"])
def test_kernels_serve_the_torch_ops(op: str, maps: torch.dtype) -> None:
    torch.manual_seed(0)
    if op == "conv":
        inputs = conv_inputs(maps)
        inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)  # not dense
        got = ops.windowed_causal_conv(*inputs, *astuple(GEOMETRY))
        want = ops.windowed_causal_conv_reference(*inputs, GEOMETRY)
    else:
        inputs = scan_inputs(maps)
        got = ops.windowed_selective_scan(*inputs, *astuple(GEOMETRY))
        want = ops.windowed_selective_scan_reference(*inputs, GEOMETRY)
    assert [tensor.dtype for tensor in got] == [maps, torch.float32]
    bound = 2e-3 if maps == torch.float16 else 2e-6
    for ours, theirs, share in zip(got, want, (bound, 2e-6), strict=True):
        assert (ours - theirs).abs().max() <= share * theirs.abs().max()


@pytest.mark.parametrize("maps", [torch.float32, torch.float16], ids=str)
def test_argmax_serves_the_torch_op(maps: torch.dtype) -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 7, 6, 9).to(maps)
    want = ops.upsample_argmax_reference(scores.float(), 23, 40)
    assert (ops.upsample_argmax(scores, 23, 40) == want).float().mean() > 0.999


def test_other_types_go_to_the_reference() -> None:
    inputs = conv_inputs(torch.float32)
    assert ops_cuda.serves(inputs[:1], inputs[1:])
    assert not ops_cuda.serves([inputs[0].double()], inputs[1:])
    assert not ops_cuda.serves([inputs[0].half()], [tensor.half() for tensor in inputs[1:]])
    assert not ops_cuda.serves([inputs[0], inputs[0].half()])

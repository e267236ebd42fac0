"""The CUDA operators behind the torch ops: the kernels' twin in the library's place, on the CPU."""

from __future__ import annotations

from dataclasses import astuple

import pytest
import torch

from streamseg.export import ops
from streamseg.export.ops_cuda import CudaKernels
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.device import DeviceOps
from streamseg.plugins.table import CAUSAL_CONV
from tests.plugins.cuda_builds import build_twin

GEOMETRY = WindowGeometry(7, 9, 3, 4, 1, 2)


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    twin = DeviceOps(build_twin() / "libstreamseg_cuda_twin.so")
    return CudaKernels(lambda: twin, stream=lambda: 0)


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
def test_kernels_follow_the_references(kernels: CudaKernels, op: str, maps: torch.dtype) -> None:
    torch.manual_seed(0)
    if op == "conv":
        inputs = conv_inputs(maps)
        inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)  # not dense
        got = kernels.causal_conv(*inputs, *astuple(GEOMETRY))
        want = ops.windowed_causal_conv_reference(*inputs, GEOMETRY)
    else:
        inputs = scan_inputs(maps)
        got = kernels.selective_scan(*inputs, *astuple(GEOMETRY))
        want = ops.windowed_selective_scan_reference(*inputs, GEOMETRY)
    assert [tensor.dtype for tensor in got] == [maps, torch.float32]
    bound = 2e-3 if maps == torch.float16 else 2e-6
    for ours, theirs, share in zip(got, want, (bound, 2e-6), strict=True):
        assert (ours - theirs).abs().max() <= share * theirs.abs().max()


@pytest.mark.parametrize("maps", [torch.float32, torch.float16], ids=str)
def test_argmax_follows_the_reference(kernels: CudaKernels, maps: torch.dtype) -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 7, 6, 9).to(maps)
    want = ops.upsample_argmax_reference(scores.float(), 23, 40)
    assert (kernels.upsample_argmax(scores, 23, 40) == want).float().mean() > 0.999


def test_other_types_go_to_the_reference(kernels: CudaKernels) -> None:
    x, *others = conv_inputs(torch.float32)
    assert kernels.serves(CAUSAL_CONV, [x, *others])
    assert kernels.serves(CAUSAL_CONV, [x.half(), *others])
    double = [tensor.double() for tensor in (x, *others)]
    for inputs in (double, [x.half(), *(tensor.half() for tensor in others)]):
        assert not kernels.serves(CAUSAL_CONV, inputs)
    got = kernels.causal_conv(*double, *astuple(GEOMETRY))
    want = ops.windowed_causal_conv_reference(*double, GEOMETRY)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, want, strict=True))


@pytest.mark.parametrize("device", ["CPU", "CUDA"])
@pytest.mark.parametrize("op", ["windowed_causal_conv", "windowed_selective_scan"])
def test_torch_has_a_kernel_for_each_device(op: str, device: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"streamseg::{op}", device)

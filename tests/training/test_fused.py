"""The path through mamba-ssm and causal-conv1d, with plain PyTorch in their place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from streamseg.export.models.mamba import BlocksConfig, TemporalBlocks
from streamseg.training import fused, networks
from streamseg.training.fused import FusedKernels, causal_conv, find_kernels, run_fused
from streamseg.training.networks import ClipNetwork
from tests.training.small import make_network


def causal_conv1d(x, weight, bias=None, activation=None):
    """(B, D, L), (D, K), (D): as causal_conv1d_fn is documented."""
    assert activation == "silu"
    taps = weight.shape[1]
    y = F.conv1d(F.pad(x, (taps - 1, 0)), weight[:, None], bias, groups=len(weight))
    return F.silu(y)


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):  # noqa: N803
    """u, delta, z (B, D, L); A (D, N); B, C (B, N, L); D, delta_bias (D)."""
    assert delta_softplus
    step = F.softplus(delta + delta_bias[:, None])
    state = u.new_zeros(*u.shape[:2], A.shape[1])
    outputs = []
    for t in range(u.shape[2]):
        decay = torch.exp(step[:, :, t, None] * A)
        state = decay * state + (step * u)[:, :, t, None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, dim=2) + D[:, None] * u
    return y * F.silu(z)


KERNELS = FusedKernels(selective_scan, causal_conv1d)


@pytest.mark.parametrize(
    ("map_size", "window", "shift"),
    [((8, 12), (4, 4), (2, 2)), ((6, 9), (3, 3), (1, 2)), ((5, 7), (4, 5), (3, 0))],
)
def test_fused_blocks_equal_the_blocks_frame_by_frame(map_size, window, shift):
    torch.manual_seed(0)
    config = BlocksConfig(8, layers=4, d_inner=16, d_state=4, dt_rank=2, window=window, shift=shift)
    blocks = TemporalBlocks(config).double()
    for layer in blocks.layers:
        layer.mixer.A_log.data += 0.1 * torch.randn_like(layer.mixer.A_log)
        layer.mixer.D.data += torch.randn_like(layer.mixer.D)
    frames = [torch.randn(2, 8, *map_size, dtype=torch.float64) for _ in range(3)]
    state = [
        torch.zeros(2, *spec.shape[1:], dtype=torch.float64) for spec in config.state_spec(map_size)
    ]
    expected, _ = blocks(frames, state)
    found = run_fused(blocks, KERNELS, frames)
    for one, other in zip(found, expected, strict=True):
        # A and D are float32 for the kernels.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_flow_through_the_fused_path():
    torch.manual_seed(0)
    config = BlocksConfig(8, layers=2, d_inner=8, d_state=4, dt_rank=1, window=(4, 4), shift=(2, 2))
    blocks = TemporalBlocks(config)
    frames = [torch.randn(1, 8, 4, 8, requires_grad=True) for _ in range(3)]
    state = [torch.zeros(spec.shape) for spec in config.state_spec((4, 8))]

    def gradients(outputs):
        wanted = [frames[0], blocks.layers[0].mixer.A_log, blocks.layers[1].mixer.in_proj.weight]
        return torch.autograd.grad(outputs[-1].square().sum(), wanted)

    for one, other in zip(
        gradients(run_fused(blocks, KERNELS, frames)),
        gradients(blocks(frames, state)[0]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_clips_on_cuda_take_the_kernels(monkeypatch):
    network = ClipNetwork(make_network())
    clip = torch.randint(0, 256, (1, 3, 32, 64, 3), dtype=torch.uint8)
    network.eval()
    expected, _ = network(clip)
    monkeypatch.setattr(networks, "find_kernels", lambda: KERNELS)

    class OnCuda(torch.Tensor):
        is_cuda = True

    found, _ = network(clip.as_subclass(OnCuda))
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, rtol=1e-4, atol=1e-4)


def test_convolution_without_libraries_is_that_of_pytorch():
    x, weight, bias = torch.randn(3, 5, 7), torch.randn(5, 4), torch.randn(5)
    expected = causal_conv1d(x, weight, bias, activation="silu")
    torch.testing.assert_close(causal_conv(x, weight, bias, activation="silu"), expected)


def test_missing_kernels_are_reported_once(caplog, monkeypatch):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(fused.importlib, "import_module", refuse)
    find_kernels.cache_clear()
    with caplog.at_level("WARNING", logger="streamseg.training.fused"):
        assert find_kernels() is None
        assert find_kernels() is None
    find_kernels.cache_clear()
    assert len(caplog.records) == 1
    assert "pip install triton" in caplog.text


@pytest.mark.parametrize("missing", ["causal_conv1d", "mamba_ssm.ops.selective_scan_interface"])
def test_own_kernels_serve_where_a_library_is_missing(missing, monkeypatch):
    def import_module(name):
        if name == missing:
            raise ImportError(name)
        return SimpleNamespace(selective_scan=selective_scan, causal_conv1d_fn=None)

    monkeypatch.setattr(fused.importlib, "import_module", import_module)
    find_kernels.cache_clear()
    found = find_kernels()
    find_kernels.cache_clear()
    assert found == FusedKernels(selective_scan, causal_conv)

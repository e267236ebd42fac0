"""A whole TV3S frame through PyTorch with our CUDA operators: parity and times, also by kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_timing import captured, time_calls

from streamseg.export import ops
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig, RMSNorm, WindowedMamba
from streamseg.export.models.tv3s import TV3S, TV3SConfig

State = list[Tensor]
CLASSES = 19
FRAMES = 8


def build_model(small: bool, device: str) -> tuple[TV3S, tuple[int, int]]:
    """TV3S-B1 at 512x1024 with seeded weights, or a narrow B0 for a rehearsal."""
    torch.manual_seed(0)
    if small:
        blocks = BlocksConfig(64, layers=2, d_inner=32, dt_rank=4, window=(5, 5), shift=(2, 2))
        return TV3S(TV3SConfig(ENCODER_PRESETS["mit_b0"], blocks, CLASSES)).to(device), (40, 80)
    blocks = BlocksConfig(256, d_inner=512, dt_rank=16)
    return TV3S(TV3SConfig(ENCODER_PRESETS["mit_b1"], blocks, CLASSES)).to(device), (512, 1024)


class WideNorm(nn.Module):
    """Root-mean-square norm whose statistics are float32: squares of float16 overflow."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to the same shape and type."""
        return self.norm(x.float()).to(x.dtype)


def to_half(model: TV3S) -> TV3S:
    """Convert to float16 in place, except norm statistics, decays, step biases and op inputs."""
    model.half()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, RMSNorm):
                setattr(module, name, WideNorm(child))
        if isinstance(module, WindowedMamba):
            module.conv1d.float()
            for parameter in (module.A_log, module.D, module.dt_proj.bias):
                parameter.data = parameter.data.float()
    return model


def make_state(model: TV3S, size: tuple[int, int], device: str) -> State:
    """Empty state, always float32."""
    return [torch.zeros(spec.shape, device=device) for spec in model.state_spec(size)]


def replay(model: TV3S, frames: Tensor, state: State) -> list[tuple[Tensor, State]]:
    """Labels and state after every frame."""
    results = []
    for frame in frames:
        labels, *state = model.segment("step", frame[None], *state)
        results.append((labels, state))
    return results


def with_references(run: Callable[[], Any]) -> Any:
    """``run`` with the plain PyTorch operators instead of ours."""
    with contextlib.ExitStack() as stack:
        for op in (ops.windowed_causal_conv, ops.windowed_selective_scan, ops.upsample_argmax):
            for device in ("cpu", "cuda"):
                stack.enter_context(op.set_kernel_enabled(device, enabled=False))
        return run()


def compare(got: list[tuple[Tensor, State]], want: list[tuple[Tensor, State]]) -> dict[str, float]:
    """Worst frame's share of equal labels, and largest state difference by the state's largest."""
    state = 0.0
    for (_, ours), (_, theirs) in zip(got, want, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            state = max(state, float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)))
    equal = [float((a == b).float().mean()) for (a, _), (b, _) in zip(got, want, strict=True)]
    return {"labels": min(equal), "state": state, "frames": len(got)}


@torch.no_grad()
def measure_frame(device: str, small: bool) -> dict[str, Any]:
    """Parity of three ways to run a frame, times of four, and the kernels of the fastest."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model, size = build_model(small, device)
    torch.manual_seed(1)
    frames = torch.randint(0, 256, (FRAMES, *size, 3), dtype=torch.uint8, device=device)
    state = make_state(model, size, device)
    count = 2 if small else FRAMES
    plain = with_references(lambda: replay(model, frames[:count], state))
    ours = replay(model, frames[:count], state)
    frame = frames[:1]

    def step() -> Any:
        return model.segment("step", frame, *state)

    slow = {"eager float32, eager loop": lambda: with_references(step)}
    times = time_calls(slow, blocks=3, calls=1)
    times |= time_calls({"eager float32, our operators": step}, blocks=10, calls=2)
    half = to_half(model.fold())  # the last use of the float32 model: it is changed in place
    lowered = replay(half, frames[:count], state)

    def half_step() -> Any:
        return half.segment("step", frame, *state)

    graph = captured(half_step)
    times |= time_calls(
        {"eager float16, our operators": half_step, "float16 with a CUDA graph": graph},
        blocks=10,
        calls=5,
    )
    fastest = times["float16 with a CUDA graph"]["median"]
    return {
        "model": f"{'mit_b0, narrow' if small else 'mit_b1'}, {size[0]}x{size[1]}, seeded weights",
        "parity": {
            "float32, ours against the references": compare(ours, plain),
            "float16 against float32": compare(lowered, ours),
        },
        "milliseconds": {
            name: {key: value / 1000 for key, value in entry.items()}
            for name, entry in times.items()
        },
        "times faster than": {name: entry["median"] / fastest for name, entry in times.items()},
        "kernels": list_kernels(graph) if torch.cuda.is_available() else [],
    }


def list_kernels(call: Callable[[], object]) -> list[dict[str, Any]]:
    """GPU time of one call by kernel, largest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    rows = [
        {"kernel": event.key[:90], "calls": event.count, "us": event.self_device_time_total}
        for event in profiler.key_averages()
    ]
    return sorted(rows, key=lambda row: -row["us"])[:20]

"""The scan against its peers: an eager loop, and mamba_ssm's kernel fed by window copies."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_timing import captured, time_calls

from streamseg.export import ops
from streamseg.export.windows import WindowGeometry

SOURCE = "mamba_ssm-*.tar.gz"


def scan_tensors(
    geometry: WindowGeometry, channels: int, maps: torch.dtype, device: str
) -> list[Tensor]:
    """Inputs as a trained layer has them: steps of 1e-3 to 1e-1, decay rates 1 to 16."""
    torch.manual_seed(0)
    wide, narrow = (1, geometry.tokens, channels), (1, geometry.tokens, 16)
    u, z = (torch.randn(wide, device=device).to(maps) for _ in range(2))
    dt = (torch.randn(wide, device=device) * 0.5).to(maps)
    B, C = (torch.randn(narrow, device=device).to(maps) for _ in range(2))  # noqa: N806
    A = -torch.arange(1.0, 17, device=device).repeat(channels, 1)  # noqa: N806
    bias = torch.empty(channels, device=device).uniform_(-6.9, -2.3)
    state = torch.zeros(1, geometry.cells, channels, 16, device=device)
    return [u, dt, bias, A, B, C, torch.ones(channels, device=device), z, state]


def measure_scan(device: str, small: bool, sources: Path) -> dict[str, Any]:
    """Microseconds of one layer's scan and convolution, peers included."""
    geometry = WindowGeometry(8, 12, 4, 4, 0, 0) if small else WindowGeometry(80, 140, 20, 20, 0, 0)
    channels = 32 if small else 512
    place = astuple(geometry)
    wide = scan_tensors(geometry, channels, torch.float32, device)
    half = scan_tensors(geometry, channels, torch.float16, device)
    taps = torch.randn(channels, 4, device=device)
    conv = [taps, torch.randn(channels, device=device)]
    conv.append(torch.zeros(1, geometry.cells, channels, 3, device=device))
    peers: dict[str, Callable[[], object]] = {
        "scan float16": captured(lambda: ops.windowed_selective_scan(*half, *place)),
        "scan float32": captured(lambda: ops.windowed_selective_scan(*wide, *place)),
        "conv float16": captured(lambda: ops.windowed_causal_conv(half[0], *conv, *place)),
        "conv float32": captured(lambda: ops.windowed_causal_conv(wide[0], *conv, *place)),
    }
    found: dict[str, Any] = {"cells": geometry.cells, "channels": channels}
    try:
        mamba = build_mamba(sources)
    except Exception as error:  # any build failure is the result
        found["mamba_ssm"] = f"not built: {type(error).__name__}: {str(error)[-300:]}"
    else:
        call = window_copies(mamba, half, geometry)
        ours = ops.windowed_selective_scan(*half, *place)[0].float()
        difference = float((call().float() - ours).abs().max() / ours.abs().max())
        found["mamba_ssm"] = {"relative difference to ours": difference}
        peers["mamba_ssm float16 with window copies"] = captured(call)
    found["microseconds"] = time_calls(peers)
    eager = {"eager loop float32": lambda: ops.windowed_selective_scan_reference(*wide, geometry)}
    found["microseconds"] |= time_calls(eager, blocks=3, calls=1)
    scan = found["microseconds"]["scan float16"]["median"]
    found["times"] = {
        name: found["microseconds"][name]["median"] / scan
        for name in found["microseconds"]
        if name.startswith(("mamba", "eager"))
    }
    return found


def build_mamba(sources: Path) -> Any:
    """Compile mamba_ssm's forward and backward kernels from its source archive.

    Raises:
        FileNotFoundError: the archive is missing; see ``prepare.sh``.
        RuntimeError: the build failed.
    """
    archives = sorted(sources.glob(SOURCE))
    if not archives:
        raise FileNotFoundError(f"{sources}/{SOURCE} was not brought along; see prepare.sh")
    if not torch.cuda.is_available():
        raise RuntimeError("no GPU: its kernels have nothing to run on")
    from torch.utils.cpp_extension import load

    folder = Path(tempfile.mkdtemp(prefix="mamba"))
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    (kernels,) = folder.glob("*/csrc/selective_scan")
    files = sorted(str(path) for path in kernels.iterdir() if path.suffix in (".cpp", ".cu"))
    flags = ["-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr"]
    flags += ["--expt-extended-lambda", "-U__CUDA_NO_HALF_OPERATORS__"]
    flags += ["-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_OPERATORS__"]
    flags += ["-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__"]
    return load(
        name="selective_scan_cuda",
        sources=files,
        extra_include_paths=[str(kernels)],
        extra_cflags=["-O3", "-std=c++17"],
        extra_cuda_cflags=flags,
    )


def window_copies(
    mamba: Any, tensors: list[Tensor], geometry: WindowGeometry
) -> Callable[[], Tensor]:
    """mamba_ssm's way to the same result, from an empty state: copies in, kernel, copy out."""
    u, dt, bias, A, B, C, skip, z, _ = tensors  # noqa: N806
    rows, cols = geometry.map_h // geometry.window_h, geometry.map_w // geometry.window_w
    height, width = geometry.window_h, geometry.window_w

    def split(tokens: Tensor) -> Tensor:
        grid = tokens.view(rows, height, cols, width, -1).permute(0, 2, 4, 1, 3)
        return grid.reshape(rows * cols, -1, height * width)

    def call() -> Tensor:
        cells = [split(tensor) for tensor in (u, dt, z)]
        maps = [split(tensor).unsqueeze(1) for tensor in (B, C)]
        out = mamba.fwd(cells[0], cells[1], A, *maps, skip, cells[2], bias, True)[-1]
        grid = out.view(rows, cols, -1, height, width).permute(0, 3, 1, 4, 2)
        return grid.reshape(1, geometry.tokens, -1)

    return call

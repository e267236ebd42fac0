"""Checks and times of the CUDA operators through PyTorch; JSON, exits 1 if a limit is exceeded.

    python benchmarks/gpu/measure.py --out out.json
    python benchmarks/gpu/measure.py --out out.json --twin build/cuda_twin/libstreamseg_cuda_twin.so

With ``--twin`` everything runs at a small size on the CPU, with the kernels' source compiled for
it: a rehearsal, whose times mean nothing and whose time limits are not checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import astuple
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from scan_peers import measure_scan, scan_tensors
from torch import Tensor
from torch_timing import describe_gpu
from whole_frame import measure_frame

from streamseg.doctor import board_state
from streamseg.export import ops
from streamseg.export.ops_cuda import CudaKernels, current_stream, find_cuda
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.device import DeviceOps

ROOT = Path(__file__).resolve().parents[2]
GEOMETRY = WindowGeometry(40, 60, 20, 20, 10, 10)
SMALL = WindowGeometry(8, 12, 4, 4, 2, 2)


def check_operators(device: str, library: DeviceOps, small: bool) -> dict[str, Any]:
    """Relative errors against float64 references; share of labels that differ."""
    geometry = SMALL if small else GEOMETRY
    found: dict[str, Any] = {}
    for maps in (torch.float32, torch.float16):
        name = str(maps).removeprefix("torch.")
        tensors = scan_tensors(geometry, 24, maps, device)
        tensors[8] = torch.randn_like(tensors[8])
        ours = ops.windowed_selective_scan(*tensors, *astuple(geometry))
        want = ops.windowed_selective_scan_reference(*wide(tensors), geometry)
        found[f"scan {name}"] = errors(ours, want)
        conv = [tensors[0], torch.randn(24, 4, device=device), torch.randn(24, device=device)]
        conv.append(torch.randn(1, geometry.cells, 24, 3, device=device))
        ours = ops.windowed_causal_conv(*conv, *astuple(geometry))
        want = ops.windowed_causal_conv_reference(*wide(conv), geometry)
        found[f"conv {name}"] = errors(ours, want)
        scores = torch.randn(1, 19, 16, 32, device=device).to(maps)
        size = (64, 128)
        labels = ops.upsample_argmax(scores, *size)
        same = labels == ops.upsample_argmax_reference(scores.double(), *size)
        found[f"argmax {name}"] = {"differing": 1 - float(same.float().mean())}
        found[f"normalise {name}"] = {"absolute": check_normalise(device, library, maps)}
    return found


def check_normalise(device: str, library: DeviceOps, maps: torch.dtype) -> float:
    """Largest difference from float64, in units of the result."""
    frame = torch.randint(0, 256, (1, 48, 64, 3), dtype=torch.uint8, device=device)
    out = torch.empty(1, 3, 48, 64, dtype=maps, device=device)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    library.normalise(
        frame.data_ptr(),
        out.data_ptr(),
        shape=frame.shape,
        mean=mean,
        std=std,
        half=maps == torch.float16,
        stream=current_stream() if device == "cuda" else 0,
    )
    shape = (1, 3, 1, 1)
    centre, spread = (torch.tensor(v, device=device).double().view(shape) for v in (mean, std))
    want = (frame.permute(0, 3, 1, 2).double() - centre) / spread
    return float((out.double() - want).abs().max())


def wide(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def errors(ours: Any, want: Any) -> dict[str, float]:
    pairs = zip(("map", "state"), ours, want, strict=True)
    return {name: float((a - b).abs().max() / b.abs().max()) for name, a, b in pairs}


def judge(found: dict[str, Any], rehearsal: bool) -> dict[str, bool]:
    """All limits by name; time limits only on a GPU."""
    bars: dict[str, bool] = {}
    for name, entry in (found.get("operators") or {}).items():
        half = "float16" in name
        if "map" in entry:
            bars[f"{name}: map"] = entry["map"] <= (2e-3 if half else 1e-5)
            bars[f"{name}: state"] = entry["state"] <= 1e-5
        elif "differing" in entry:
            bars[f"{name}: labels"] = entry["differing"] <= 1e-3
        else:
            bars[name] = entry["absolute"] <= (2e-3 if half else 1e-5)
    frame = found.get("frame") or {}
    for name, entry in frame.get("parity", {}).items():
        exact = name.startswith("float32")
        bars[f"frame, {name}: labels"] = entry["labels"] >= (0.999 if exact else 0.97)
        if exact:
            bars[f"frame, {name}: state"] = entry["state"] <= 1e-3
    if rehearsal or "scan" not in found or not frame:
        return bars
    times, scan = found["scan"]["microseconds"], found["scan"]["times"]
    bars["scan <= 60 us"] = times["scan float16"]["median"] <= 60
    bars["conv <= 25 us"] = times["conv float16"]["median"] <= 25
    bars["scan >= 50x over the eager loop"] = scan["eager loop float32"] >= 50
    mamba = scan.get("mamba_ssm float16 with window copies")
    if mamba is not None:
        bars["scan >= 2x over mamba_ssm"] = mamba >= 2
    graph = frame["milliseconds"]["float16 with a CUDA graph"]["median"]
    bars["frame <= 3 ms"] = graph <= 3
    bars["frame >= 8x over eager float32"] = (
        frame["times faster than"]["eager float32, our operators"] >= 8
    )
    return bars


def describe() -> dict[str, Any]:
    """Machine, versions and commit; the commit is passed in if there is no git."""
    versions = {}
    for name in ("torch", "transformers", "numpy", "cuda-bindings", "triton"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "board": board_state(),
        "commit": os.environ.get("COMMIT", "unknown"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--twin", type=Path, help="the kernels' twin: rehearse on the CPU")
    parser.add_argument("--sources", type=Path, default=ROOT / ".whl", help="peers' archives")
    arguments = parser.parse_args()
    rehearsal = arguments.twin is not None
    device = "cpu" if rehearsal else "cuda"
    library = DeviceOps(arguments.twin.absolute()) if rehearsal else find_cuda()
    if rehearsal:
        ops.register_kernels("cpu", CudaKernels(lambda: library, stream=lambda: 0))
    if library is None:
        sys.exit("measure.py: libstreamseg_cuda.so is not built; run benchmarks/gpu/run.sh")
    found: dict[str, Any] = {"machine": describe(), "rehearsal": rehearsal}
    found["before"] = describe_gpu()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "operators": lambda: check_operators(device, library, rehearsal),
        "frame": lambda: measure_frame(device, rehearsal),
        "scan": lambda: measure_scan(device, rehearsal, arguments.sources),
    }
    for name, part in parts.items():
        try:
            found[name] = part()
        except Exception as error:  # one part's failure must not cost the others' results
            traceback.print_exc()
            found.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    found["after"] = describe_gpu()
    found["bars"] = judge(found, rehearsal)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    missed = [name for name, held in found["bars"].items() if not held]
    print(json.dumps({"missed": missed, "failed": found.get("failed", {})}, indent=1))
    return 1 if missed or "failed" in found else 0


if __name__ == "__main__":
    sys.exit(main())

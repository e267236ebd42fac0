"""Peak rates of the processor: a second each of float32, bfloat16 and int8 products."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 1024
SECONDS = 1.0
# Flags or features to find in Linux's list.
_SETS = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)


def describe_processor() -> dict[str, Any]:
    """Vendor, family, model, stepping and name as Linux numbers them, and instruction sets."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    names = ("vendor_id", "cpu family", "model", "stepping", "model name", "CPU part")
    flags = set((found.get("flags") or found.get("Features") or "").split())
    return {
        **{name.replace(" ", "_"): found[name] for name in names if name in found},
        "instruction_sets": [name for name in _SETS if name in flags],
    }


def describe_pinning() -> str:
    """Which processors this process may run on."""
    allowed = sorted(os.sched_getaffinity(0))
    count = os.cpu_count() or len(allowed)
    if len(allowed) == count:
        return "none: threads may run on all processors"
    return "processors " + ",".join(map(str, allowed))


def measure_peaks(threads: int) -> dict[str, float]:
    """10^9 operations (two a multiply-add) a second of square products, by precision.

    A precision that PyTorch cannot multiply here is omitted. Without PyTorch, all are.
    """
    try:
        import torch
    except ImportError:
        return {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        peaks = {}
        for name, call in _products(torch).items():
            try:
                call()
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                print(f"no peak of {name}: {str(error).splitlines()[0]}")
                continue
            peaks[name] = _rate(call)
        return peaks
    finally:
        torch.set_num_threads(before)


def _products(torch: Any) -> dict[str, Callable[[], object]]:
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    left16, right16 = left.bfloat16(), right.bfloat16()
    bytes_ = torch.randint(0, 127, (SIDE, SIDE), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (SIDE, SIDE), dtype=torch.int8)

    def int8() -> object:
        op = torch.ops.onednn
        packed = op.qlinear_prepack(weight, [SIDE, SIDE]) if not cache else cache[0]
        cache[:] = [packed]
        return op.qlinear_pointwise(
            *(bytes_, 0.1, 0, packed, torch.ones(SIDE), torch.zeros(SIDE, dtype=torch.int64)),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )

    cache: list[Any] = []
    return {
        "fp32": lambda: left @ right,
        "bf16": lambda: torch.nn.functional.linear(left16, right16),
        "int8": int8,
    }


def _rate(call: Callable[[], object]) -> float:
    """Best of the calls in a second."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    while (started := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best / 1e9


def share_of_peak(gmacs: float, milliseconds: float, peak: float) -> float:
    """Share of a peak (10^9 operations a second) that these multiply-adds in this time reach."""
    return 2 * gmacs / (milliseconds / 1e3) / peak

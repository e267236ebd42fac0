"""Times of PyTorch calls: on a GPU between events, in blocks of calls; on the CPU by the clock."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

CLOCKS = (
    *("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw"),
    *("temperature.gpu", "clocks_event_reasons.active"),
)


def time_calls(
    peers: Mapping[str, Callable[[], object]], *, blocks: int = 20, calls: int = 10
) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of microseconds per call; peers take turns, block by block."""
    on_gpu = torch.cuda.is_available()
    if not on_gpu:  # a rehearsal: only checks that it runs
        blocks = calls = 1
    for call in peers.values():
        for _ in range(3 if on_gpu else 0):
            call()
    samples: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(blocks):
        for name, call in peers.items():
            samples[name].append((_between_events if on_gpu else _by_clock)(call, calls))
    return {
        name: {
            "median": sorted(values)[len(values) // 2],
            "p95": sorted(values)[min(len(values) - 1, len(values) * 95 // 100)],
        }
        for name, values in samples.items()
    }


def _between_events(call: Callable[[], object], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1000 / calls


def _by_clock(call: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) * 1e6 / calls


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """``call`` as a CUDA graph, so that launches cost nothing; on the CPU ``call`` itself."""
    if not torch.cuda.is_available():
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()  # its result is in the graph's memory
    return lambda: (graph.replay(), kept)[1]


def describe_gpu() -> dict[str, Any]:
    """Clocks and throttling as the driver reports them; read before and after."""
    query = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return {"nvidia-smi": str(error)}
    values = [value.strip() for value in done.stdout.splitlines()[:1] for value in value.split(",")]
    return dict(zip(CLOCKS, values, strict=False)) if values else {"nvidia-smi": done.stderr[:200]}

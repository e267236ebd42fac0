"""The time of a frame by kind of operator, in milliseconds, from OpenVINO's own counters.

python benchmarks/operator_times.py BUNDLE:fp32 BUNDLE:bf16 ...

Writes benchmarks/results/operator_times.{json,md}. The native operators have the kind
``Reference``, the name in OpenVINO for operators of an extension.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_head, describe_machine, write_results

from streamseg.plugins.loader import find_openvino_library
from streamseg.runtime.backends.openvino import release_of

HINTS = {"fp32": "f32", "bf16": "bf16"}
ROUNDS, SECONDS = 5, 3.0  # the least of each
LEAST = 0.01  # of the frame; smaller kinds are summed


def measure(bundle: Path, precision: str, threads: int) -> dict[str, float]:
    """Milliseconds per frame for every kind of operator, without the first frame."""
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    core.add_extension(str(find_openvino_library(release_of(openvino))))
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # as the backend has it
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERF_COUNT": True,
    }
    compiled = core.compile_model(core.read_model(str(bundle / "step.onnx")), "CPU", config)
    request = compiled.create_infer_request()
    noise = np.random.default_rng(0)
    for port in compiled.inputs:
        shape, kind = tuple(port.shape), port.get_element_type().to_dtype()
        content = np.zeros(shape, kind)
        if kind == np.uint8:
            content = noise.integers(0, 256, shape, np.uint8)
        request.set_tensor(port, openvino.Tensor(content))
    request.infer()
    times: Counter[str] = Counter()
    rounds, started = 0, time.perf_counter()
    while rounds < ROUNDS or time.perf_counter() - started < SECONDS:
        rounds += 1
        request.infer()
        for entry in request.get_profiling_info():
            if entry.status == entry.Status.EXECUTED:
                kind = f"{entry.node_type} ({entry.exec_type})"
                times[kind] += entry.real_time.total_seconds() * 1e3
    return {kind: total / rounds for kind, total in times.items()}


def format_table(machine: dict[str, Any], rows: dict[str, dict[str, float]]) -> str:
    lines = [f"{describe_head(machine)}.", "", "| bundle | operators | ms a frame | share |"]
    lines.append("|---|---|---|---|")
    for name, times in rows.items():
        whole = sum(times.values())
        large = {kind: ms for kind, ms in times.items() if ms >= LEAST * whole}
        for kind, ms in sorted(large.items(), key=lambda item: -item[1]):
            lines.append(f"| {name} | {kind} | {ms:.1f} | {ms / whole:.0%} |")
        rest = whole - sum(large.values())
        lines.append(f"| {name} | the rest | {rest:.1f} | {rest / whole:.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE:PRECISION")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    machine, rows = describe_machine(arguments.threads), {}
    for text in arguments.bundles:
        path, _, precision = text.rpartition(":")
        rows[f"{Path(path).name}, {precision}"] = measure(Path(path), precision, arguments.threads)
    write_results("operator_times", {"machine": machine, "rows": rows}, format_table(machine, rows))


if __name__ == "__main__":
    main()

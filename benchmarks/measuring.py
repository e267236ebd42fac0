"""Shared by all benchmarks: interleaved timing, the machine's description, JSON and tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from streamseg.doctor import board_state

if __package__:
    from benchmarks.peaks import describe_pinning, describe_processor, measure_peaks
else:
    from peaks import describe_pinning, describe_processor, measure_peaks

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "onnxruntime", "onnx", "openvino", "numpy", "opencv-python-headless")


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, its peaks, versions, commit and threads, for the head of a result file.

    Takes three seconds: machines of the same name differ by a factor of two, which their peaks
    show.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        **describe_processor(),
        "pinning": describe_pinning(),
        "peak_gops": measure_peaks(threads),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        **({"board": board} if (board := board_state()) else {}),
        "commit": describe_commit(),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def time_interleaved(
    peers: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 2
) -> dict[str, dict[str, float]]:
    """Call every peer once per round, so other load on the machine affects all equally.

    Returns:
        For each peer: ``median_ms``, ``p95_ms``, ``rounds``.
    """
    for _ in range(warm_up):
        for call in peers.values():
            call()
    samples: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, call in peers.items():
            started = time.perf_counter()
            call()
            samples[name].append((time.perf_counter() - started) * 1e3)
    return {name: summarise(values) for name, values in samples.items()}


def summarise(milliseconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(milliseconds)
    return {
        "median_ms": statistics.median(ordered),
        "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "rounds": len(ordered),
    }


def write_results(
    name: str, content: Mapping[str, Any], table: str, folder: Path = RESULTS
) -> None:
    """Write ``results/<name>.json`` and ``results/<name>.md``, and print the table."""
    write_json(name, content, folder)
    (folder / f"{name}.md").write_text(table)
    print(table)


def write_json(name: str, content: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Write ``results/<name>.json``."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def describe_head(machine: Mapping[str, Any]) -> str:
    """The machine in one line, for the head of a table."""
    numbers = [
        str(machine[name]) for name in ("cpu_family", "model", "stepping") if name in machine
    ]
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in machine["peak_gops"].items())
    return (
        f"{machine['processor']} (family/model/stepping {'/'.join(numbers) or 'unknown'}; "
        f"{', '.join(machine['instruction_sets'])}), {machine['threads']} threads, pinning "
        f"{machine['pinning']}; products in 10^9 operations/s: {peaks or 'not measured'}; commit "
        f"{machine['commit']}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe_commit() -> str:
    """The checkout's commit."""
    return _git("rev-parse", "--short", "HEAD")


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    return done.stdout.strip()

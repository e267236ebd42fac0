"""Measures how fast synthetic scenes render: one process, two, and two threads of one.

Run: python benchmarks/scenes.py [--size 256x512] [--frames 300] [--out FILE]
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from streamseg.scenes import SCENES_VERSION, SyntheticScene, parse_scene

RESULTS = Path(__file__).parent / "results" / "scenes.json"
WARM_UP = 20


def measure(address: str, first: int, count: int) -> tuple[list[float], float]:
    """Milliseconds for each of `count` frames in order after a warm-up; mean CPU milliseconds."""
    cv2.setNumThreads(1)
    scene = SyntheticScene(parse_scene(address))
    for index in range(first, first + WARM_UP):
        scene.render(index)
    times = []
    busy = time.thread_time()
    for index in range(first + WARM_UP, first + WARM_UP + count):
        start = time.perf_counter()
        scene.render(index)
        times.append(1e3 * (time.perf_counter() - start))
    return times, 1e3 * (time.thread_time() - busy) / count


def summarise(runs: list[tuple[list[float], float]]) -> dict[str, float]:
    """Frames a second of all workers together, and the spread of one frame.

    CPU time well below wall time in one process or two shows that the machine was not idle.
    """
    times = [value for run, _ in runs for value in run]
    return {
        "frames_per_second": round(sum(1e3 * len(run) / sum(run) for run, _ in runs), 1),
        "median_ms": round(statistics.median(times), 2),
        "p95_ms": round(statistics.quantiles(times, n=20)[-1], 2),
        "wall_ms": round(statistics.fmean(times), 2),
        "cpu_ms": round(statistics.fmean(cpu for _, cpu in runs), 2),
    }


def compare(preset: str, size: str, count: int) -> dict[str, dict[str, float]]:
    """One preset, run in each way."""
    jobs = [(f"synthetic:{preset}?size={size}&seed={seed}", 500, count) for seed in (1, 2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        processes = pool.starmap(measure, jobs, chunksize=1)
    with ThreadPoolExecutor(2) as pool:
        threads = list(pool.map(lambda job: measure(*job), jobs))
    return {
        "one process": summarise([measure(*jobs[0])]),
        "two processes": summarise(processes),
        "two threads": summarise(threads),
    }


def describe_machine() -> dict[str, object]:
    """The conditions of the measurement."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "opencv_threads": 1,
        "scenes_version": SCENES_VERSION,
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    """Measure the presets, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="256x512", help="HxW")
    parser.add_argument("--frames", type=int, default=300, help="frames of each worker")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    presets = {
        name: compare(name, options.size, options.frames) for name in ("clean", "street", "hard")
    }
    for name, ways in presets.items():
        for way, numbers in ways.items():
            print(
                f"{name:7} {way:14} {numbers['frames_per_second']:7.1f} frames/s  "
                f"median {numbers['median_ms']:.2f} ms  p95 {numbers['p95_ms']:.2f} ms  "
                f"CPU {numbers['cpu_ms']:.2f} of {numbers['wall_ms']:.2f} ms"
            )
    result = {"machine": describe_machine(), "size": options.size, "presets": presets}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

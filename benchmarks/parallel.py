"""Label maps per second of a fleet: all cores on one step, or a core for each of several steps.

python benchmarks/parallel.py BUNDLE ...     # writes benchmarks/results/parallel.{json,md}

Four streams decode looped files as fast as their frames are read; the two ways take turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from measuring import describe_head, describe_machine, write_results
from overlap import measure_rate, write_clip

import streamseg

STREAMS = 4
BACKENDS = ("onnxruntime", "openvino")


def measure(bundle: Path, clip: Path, seconds: float, **options: Any) -> float:
    """Label maps per second with these options."""
    with streamseg.open_fleet(bundle, **options) as fleet:
        return measure_rate(fleet, clip, count=STREAMS, seconds=seconds)


def measure_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    cores = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip)
        for bundle in arguments.bundles:
            for backend in BACKENDS:
                rates: dict[str, list[float]] = {"one": [], "parallel": []}
                for _ in range(arguments.rounds):
                    for name, shares in {
                        "one": {"threads": cores, "parallel": 1},
                        "parallel": {"threads": 1, "parallel": cores},
                    }.items():
                        rate = measure(bundle, clip, arguments.seconds, backend=backend, **shares)
                        rates[name].append(rate)
                gains = [b / a for a, b in zip(rates["one"], rates["parallel"], strict=True)]
                rows.append({"bundle": bundle.name, "backend": backend, **rates, "gains": gains})
                print(bundle.name, backend, f"{median(gains):.2f}", flush=True)
    return rows


def format_table(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{describe_head(machine)}. {STREAMS} streams; label maps a second, medians.",
        "",
        "| bundle | backend | all cores on one step | a step on each core | gain (range) |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        gains = row["gains"]
        lines.append(
            f"| {row['bundle']} | {row['backend']} | {median(row['one']):.2f} | "
            f"{median(row['parallel']):.2f} | {median(gains):.2f} "
            f"({min(gains):.2f} to {max(gains):.2f}) |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    machine = describe_machine(len(os.sched_getaffinity(0)))
    rows = measure_all(arguments)
    write_results("parallel", {"machine": machine, "rows": rows}, format_table(machine, rows))


if __name__ == "__main__":
    main()

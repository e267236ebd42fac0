"""TV3S MiT-B1 at 512x1024, float32 against INT8: time, size, and the time of each operator.

python benchmarks/int8.py                    # writes benchmarks/results/int8.{json,md}
python benchmarks/int8.py --bundles DIR      # keeps both bundles there and reuses them
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from frame import SIZE, build_model
from measuring import describe_machine, summarise, write_results

import streamseg
from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import export_bundle
from streamseg.export.parity import moving_pattern
from streamseg.plugins.loader import find_library
from streamseg.runtime.backends.onnxruntime import open_cpu_session

PRECISIONS = ("float32", "INT8")


def prepare(folder: Path) -> dict[str, Path]:
    """The float32 bundle and its INT8 counterpart, made unless they exist.

    Weights and calibration frames are seeded noise: only time is measured here.
    """
    paths = {"float32": folder / "tv3s-b1", "INT8": folder / "tv3s-b1-int8"}
    if not paths["float32"].exists():
        export_bundle(build_model("mit_b1", embed_dim=256, window=20), paths["float32"], size=SIZE)
    if not paths["INT8"].exists():
        with tempfile.TemporaryDirectory() as scratch:
            clip = Path(scratch) / "clip"
            clip.mkdir()
            for index, image in enumerate(moving_pattern(SIZE, 4)):
                cv2.imwrite(str(clip / f"{index}.png"), image)
            dataset = open_dataset(f"footage:{scratch}", "train", labels=False)
            options = CalibrationOptions(clips=1, clip_frames=4)
            calibrate(paths["float32"], paths["INT8"], dataset, options, report=False)
    return paths


def time_steps(paths: dict[str, Path], *, threads: int, rounds: int) -> dict[str, Any]:
    """Both bundles step in turn; the speed-up is the median of the quotients of the rounds."""
    streams = {
        name: streamseg.open(path, native=True, threads=threads) for name, path in paths.items()
    }
    frames = moving_pattern(SIZE, 4)
    samples: dict[str, list[float]] = {name: [] for name in paths}
    for index in range(-2, rounds):
        for name, stream in streams.items():
            started = time.perf_counter()
            stream.step(frames[index % len(frames)])
            if index >= 0:
                samples[name].append((time.perf_counter() - started) * 1e3)
    for stream in streams.values():
        stream.close()
    quotients = [a / b for a, b in zip(*(samples[name] for name in PRECISIONS), strict=True)]
    medians = [statistics.median(samples[name]) for name in PRECISIONS]
    return {
        "times": {name: summarise(values) for name, values in samples.items()},
        "faster": medians[0] / medians[1],
        "faster_by_round": summarise(quotients)["median_ms"],
    }


def profile(path: Path, *, threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a frame by operator, from each node's fastest run."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.register_custom_ops_library(str(find_library()))
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as scratch:
        settings.profile_file_prefix = f"{scratch}/profile"
        session = open_cpu_session((path / "step.onnx").read_bytes(), settings)
        kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
        feeds = {
            entry.name: np.zeros(entry.shape, kinds[entry.type]) for entry in session.get_inputs()
        }
        feeds["frame"] = moving_pattern(SIZE, 1)[0][None]
        for _ in range(rounds):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    fastest: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["args"]["op_name"], event["name"]
            fastest[key] = min(fastest.get(key, float("inf")), event["dur"] / 1e3)
    totals: dict[str, float] = defaultdict(float)
    for (kind, _), duration in fastest.items():
        totals[kind] += duration
    return dict(totals)


def format_table(result: dict[str, Any]) -> str:
    """Times, sizes and the profile as Markdown."""
    machine, sizes = result["machine"], result["bytes"]
    lines = [
        f"TV3S MiT-B1 (embed 256, window 20, seeded weights), {SIZE[0]}x{SIZE[1]}, native "
        f"operators, both bundles in turn, {result['rounds']} rounds; {machine['processor']}, "
        f"ONNX Runtime {machine['versions'].get('onnxruntime')}, commit {machine['commit']}.",
        "",
        "| | float32 | INT8 | |",
        "|---|---|---|---|",
    ]
    for threads, found in result["threads"].items():
        medians = (found["times"][name] for name in PRECISIONS)
        cells = (f"{entry['median_ms']:.0f} (p95 {entry['p95_ms']:.0f})" for entry in medians)
        lines.append(f"| {threads} threads, ms | {' | '.join(cells)} | {found['faster']:.2f}x |")
    cells = (f"{sizes[name] / 1e6:.1f}" for name in PRECISIONS)
    lines.append(
        f"| graph, MB | {' | '.join(cells)} | {sizes['float32'] / sizes['INT8']:.1f}x smaller |"
    )
    lines += [
        "",
        "Where a frame goes, one thread, each node's fastest run, ms:",
        "",
        "| operator | float32 | INT8 |",
        "|---|---|---|",
    ]
    profiles = result["profile_ms"]
    kinds = {kind for found in profiles.values() for kind in found}
    largest = {kind: max(found.get(kind, 0.0) for found in profiles.values()) for kind in kinds}
    for kind in sorted(largest, key=lambda kind: -largest[kind])[:16]:
        cells = (f"{profiles[name].get(kind, 0.0):.1f}" for name in PRECISIONS)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    cells = (f"{sum(profiles[name].values()):.1f}" for name in PRECISIONS)
    lines.append(f"| all | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundles", type=Path, help="keep bundles here and reuse them")
    parser.add_argument("--prepare", action="store_true", help="only make the bundles")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = prepare(options.bundles or Path(scratch))
        if options.prepare:
            return
        result = {
            "machine": describe_machine(max(options.threads)),
            "size": SIZE,
            "rounds": options.rounds,
            "bytes": {name: (path / "step.onnx").stat().st_size for name, path in paths.items()},
            "threads": {
                threads: time_steps(paths, threads=threads, rounds=options.rounds)
                for threads in options.threads
            },
            "profile_ms": {
                name: profile(path, threads=1, rounds=5) for name, path in paths.items()
            },
        }
    write_results("int8", result, format_table(result))


if __name__ == "__main__":
    main()

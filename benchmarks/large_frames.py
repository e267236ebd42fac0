"""TV3S at 1024x2048 against 512x1024 on the CPU: time for four times the pixels, and peak memory.

python benchmarks/large_frames.py                   # writes benchmarks/results/large_frames.*
python benchmarks/large_frames.py --bundles DIR     # keeps the bundles there and reuses them
python benchmarks/large_frames.py --lowering        # adds rows without the native operators

The two sizes take turns. Seeded weights for TV3S-B1; the street sample has its own. The check
against PyTorch, which would take several GB at this size, is left to smaller exports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from measuring import describe_head, describe_machine, time_interleaved, write_results

import streamseg
from streamseg.export import bundles
from streamseg.export.catalogue import build_entry
from streamseg.export.checkpoint import load_checkpoint
from streamseg.export.step import StepModel

SIZES = ((512, 1024), (1024, 2048))
BACKENDS = {"onnxruntime": ({},), "openvino": ({"precision": "fp32"}, {"precision": "bf16"})}
LOWERED = {"onnxruntime": ({},), "openvino": ({"precision": "fp32"},)}
RESULTS = Path(__file__).resolve().parent / "results/large_frames.json"
LIMIT_MB, LIMIT_RATIO = 1000, 5.3
STREET = Path(__file__).resolve().parents[1] / "samples/street/street.safetensors"


def models() -> dict[str, StepModel]:
    return {"tv3s/mit_b1": build_entry("tv3s/mit_b1"), "street sample": load_checkpoint(STREET)}


def prepare(folder: Path) -> dict[str, dict[tuple[int, int], Path]]:
    """Bundles by network and size, exported unless they exist."""
    found: dict[str, dict[tuple[int, int], Path]] = {}
    for name, model in models().items():
        for size in SIZES:
            path = folder / f"{name.replace('/', '-').replace(' ', '-')}-{size[0]}"
            found.setdefault(name, {})[size] = path
            if not path.exists():
                print(f"exporting {path.name} ...", flush=True)
                with (
                    mock.patch.object(bundles, "measure_parity", return_value={}),
                    mock.patch.object(bundles, "check_contract"),
                ):
                    bundles.export_bundle(model, path, size=size)
    return found


def weights_mb(name: str) -> float:
    return sum(parameter.numel() for parameter in models()[name].parameters()) * 4 / 1e6


def peak_mb(path: Path, threads: int, options: dict[str, Any]) -> float:
    """Peak resident MB of a process of its own, after two steps."""
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), str(path), str(threads)]
    command += [f"{name}={value}" for name, value in options.items() if name != "native"]
    command += ["lowering"] if options.get("native") is False else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1]) * 1024**2 / 1e6


def measure(
    paths: dict[tuple[int, int], Path], threads: int, rounds: int, options: dict[str, Any]
) -> dict[str, Any]:
    peers = {}
    random = np.random.default_rng(0)
    for size, path in paths.items():
        stream = streamseg.open(path, threads=threads, **options)
        frame = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        peers[f"{size[0]}x{size[1]}"] = lambda stream=stream, frame=frame: stream.step(frame)
    times = time_interleaved(peers, rounds=rounds, warm_up=1)
    small, large = (entry["median_ms"] for entry in times.values())
    return {"times": times, "ratio": large / small}


def describe_lowering(rows: list[dict[str, Any]]) -> str:
    """Where rows without the native operators come from, which a run of their own measures."""
    commits = sorted({row["commit"] for row in rows if "lowering" in row["backend"]})
    return f"Rows of the lowering: commit {', '.join(commits)}." if commits else ""


def make_table(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    lines = [
        f"{describe_head(machine)}. Medians of steps in turn; peak resident memory of a process of "
        f"its own, less the weights. Limits for TV3S-B1: {LIMIT_MB} MB and {LIMIT_RATIO} times. "
        + describe_lowering(rows),
        "",
        "| network | backend | ms at 512x1024 | ms at 1024x2048 | times | peak at 512x1024, MB | "
        "peak at 1024x2048, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        small, large = (entry["median_ms"] for entry in row["times"].values())
        peaks = " | ".join(f"{value:.0f}" for value in row["peak_beyond_weights_mb"])
        lines.append(
            f"| {row['network']} | {row['backend']} | {small:.0f} | {large:.0f} | "
            f"{row['ratio']:.2f} | {peaks} |"
        )
    return "\n".join(lines) + "\n"


def run_rows(
    found: dict[str, dict[tuple[int, int], Path]], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A row for every network, backend and precision."""
    lowered: dict[str, Any] = {"native": False} if arguments.lowering else {}
    for name, paths in found.items():
        weights = weights_mb(name)
        for backend, variants in (LOWERED if arguments.lowering else BACKENDS).items():
            for precision in variants:
                options = {"backend": backend, **precision, **lowered}
                row = measure(paths, arguments.threads, arguments.rounds, options)
                peaks = [peak_mb(path, arguments.threads, options) for path in paths.values()]
                label = " ".join([backend, *precision.values(), *(["lowering"] if lowered else [])])
                yield {
                    "network": name,
                    "backend": label,
                    "peak_beyond_weights_mb": [peak - weights for peak in peaks],
                    **row,
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bundles", type=Path, help="keep the bundles here and reuse them")
    parser.add_argument(
        "--lowering", action="store_true", help="measure the lowering; other rows stay"
    )
    parser.add_argument("--prepare", action="store_true", help="only export")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        found = prepare(arguments.bundles or Path(scratch))
        if arguments.prepare:
            return
        machine = describe_machine(arguments.threads)
        for row in run_rows(found, arguments):
            rows.append({**row, "commit": machine["commit"]})
            print(make_table(rows[-1:], machine).splitlines()[-1], flush=True)
    if arguments.lowering:
        before = json.loads(RESULTS.read_text())
        kept = [row for row in before["rows"] if "lowering" not in row["backend"]]
        machine, rows = before["machine"], kept + rows
    write_results("large_frames", {"machine": machine, "rows": rows}, make_table(rows, machine))
    missed = [
        f"{row['network']}, {row['backend']}"
        for row in rows
        if row["network"] == "tv3s/mit_b1"
        and (max(row["peak_beyond_weights_mb"]) > LIMIT_MB or row["ratio"] > LIMIT_RATIO)
    ]
    if missed:
        raise SystemExit(f"beyond {LIMIT_MB} MB or {LIMIT_RATIO} times: {'; '.join(missed)}")


if __name__ == "__main__":
    main()

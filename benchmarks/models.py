"""Every system at one size, side by side: parameters, work, state, time per step, peak memory.

python benchmarks/models.py                  # writes benchmarks/results/models.{json,md}
python benchmarks/models.py --only cffm/mit_b0 mrcfa/mit_b0 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring import describe_machine, summarise, write_results
from peak import open_steady, period

from streamseg.export import export_bundle
from streamseg.export.catalogue import CATALOGUE, build_entry, measure_cost
from streamseg.export.parity import moving_pattern
from streamseg.export.published import FIGURES
from streamseg.runtime.bundle.bundle import read_manifest
from streamseg.runtime.bundle.manifest import Manifest

SIZE = (480, 864)
SYSTEMS = (
    "segformer/mit_b0",
    "tv3s/mit_b0",
    "cffm/mit_b0",
    "cffm++/mit_b0",
    "mrcfa/mit_b0",
    "segformer/mit_b1",
    "tv3s/mit_b1",
    "cffm/mit_b1",
    "cffm++/mit_b1",
    "mrcfa/mit_b1",
    "mask2former/resnet50",
    "mpvss/resnet50",
)


def prepare(name: str, folder: Path, size: tuple[int, int]) -> Path:
    """The bundle of a system, exported unless it exists."""
    path = folder / name.replace("/", "-")
    if not path.exists():
        print(f"exporting {name} ...", flush=True)
        export_bundle(build_entry(name), path, size=size)
    return path


def time_systems(
    paths: Mapping[str, Path], *, rounds: int, threads: int, size: tuple[int, int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds per step for each graph of each system, one step of each in turn."""
    streams = {name: open_steady(path, threads) for name, path in paths.items()}
    frames = moving_pattern(size, 4)
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in paths}
    for round_ in range(-1, rounds):
        for name, stream in streams.items():
            for _ in range(period(stream.manifest)):
                graph = stream.manifest.row_at(stream.steps).graph
                started = time.perf_counter()
                stream.step(frames[round_ % len(frames)])
                elapsed = (time.perf_counter() - started) * 1e3
                if round_ >= 0:
                    samples[name].setdefault(graph, []).append(elapsed)
    return {
        name: {graph: summarise(values) for graph, values in found.items()}
        for name, found in samples.items()
    }


def peak_memory(path: Path, threads: int) -> float:
    """Peak resident MB of a process that contains only the runtime and runs every graph."""
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def amortised(times: Mapping[str, Mapping[str, float]], manifest: Manifest) -> float:
    """Mean of the graphs' medians over one period of the schedule."""
    start, length = max(row.start for row in manifest.schedule), period(manifest)
    graphs = [manifest.row_at(start + i).graph for i in range(length)]
    return sum(times[graph]["median_ms"] for graph in graphs) / length


def describe(name: str, path: Path, times: Mapping[str, Any], memory: float) -> dict[str, Any]:
    """All figures of one system."""
    manifest = read_manifest(path)
    size = (manifest.frame.height, manifest.frame.width)
    return {
        **asdict(measure_cost(name, size, classes=len(manifest.classes))),
        "nodes": manifest.model["nodes"],
        "times": times,
        "ms_a_frame": amortised(times, manifest),
        "peak_mb": memory,
        "published": [
            {
                "place": row.place,
                "dataset": f"{row.table.dataset}, {row.table.split}",
                **{key: getattr(row, key) for key in FIGURES},
            }
            for row in CATALOGUE[name].published
        ],
    }


def make_table(found: Mapping[str, Mapping[str, Any]], size: tuple[int, int], head: str) -> str:
    """The results as Markdown: measured costs, figures from the papers, and the conclusion."""
    lines = [
        f"Systems at {size[0]}x{size[1]}, 124 classes, initial weights. {head}",
        "",
        "| system | parameters M | 10^9 multiply-adds (encoder) | state MB | nodes | ms a step, "
        "median (p95) | ms a frame | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in found.items():
        cells = (
            name,
            f"{entry['parameters'] / 1e6:.3f}",
            ", ".join(
                f"{graph} {value:.1f} ({entry['encoder_gmacs'][graph]:.1f})"
                for graph, value in entry["gmacs"].items()
            ),
            f"{entry['state_bytes'] / 1e6:.1f}",
            ", ".join(f"{graph} {count}" for graph, count in entry["nodes"].items()),
            ", ".join(
                f"{graph} {t['median_ms']:.0f} ({t['p95_ms']:.0f})"
                for graph, t in entry["times"].items()
            ),
            f"{entry['ms_a_frame']:.0f}",
            f"{entry['peak_mb']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *paper_table(found), "", *verdict(found)]) + "\n"


def paper_table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Published figures of the same networks, row by row."""
    lines = [
        "What was published of them. Frames a second are of each publication's GPU, parameters "
        "with the classes of its dataset.",
        "",
        f"| system | dataset | {' | '.join(FIGURES)} | source |",
        f"|{'---|' * (len(FIGURES) + 3)}",
    ]
    for name, entry in found.items():
        for row in entry["published"]:
            cells = ("-" if row[key] is None else f"{row[key]:g}" for key in FIGURES)
            lines.append(f"| {name} | {row['dataset']} | {' | '.join(cells)} | {row['place']} |")
    return lines


def verdict(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The fastest system, and the cost of each temporal part beyond the per-frame network."""
    fastest = min(found, key=lambda name: found[name]["ms_a_frame"])
    stateful = [name for name in found if found[name]["state_bytes"]]
    lines = [f"Fastest: {fastest}."]
    if stateful:
        best = min(stateful, key=lambda name: found[name]["ms_a_frame"])
        lines[0] += f" Fastest with state: {best}."
    lines += ["", "Temporal parts, beyond SegFormer with the same encoder:", ""]
    for name in stateful:
        entry, base = found[name], found.get(f"segformer/{name.partition('/')[2]}")
        if base is None:
            continue
        macs = entry["gmacs"]["step"] - base["gmacs"]["step"]
        ms = entry["ms_a_frame"] - base["ms_a_frame"]
        inside = ", projections inside the Mamba layers counted" if "tv3s" in name else ""
        lines.append(f"- {name}: {macs:+.1f} 10^9 multiply-adds{inside}; {ms:+.0f} ms a frame.")
    for name in stateful:
        entry = found[name]
        if "propagate" not in entry["gmacs"]:
            continue
        work = entry["gmacs"]["propagate"] / entry["gmacs"]["key"]
        ms = {graph: times["median_ms"] for graph, times in entry["times"].items()}
        lines.append(
            f"- {name}: `propagate` takes {work:.0%} of `key`'s multiply-adds and "
            f"{ms['propagate']:.0f} ms, {ms['propagate'] / ms['key']:.0%} of its "
            f"{ms['key']:.0f} ms."
        )
    return lines


def main() -> None:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", default=SYSTEMS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bundles", type=Path, help="keep bundles here and reuse them")
    parser.add_argument("--prepare", action="store_true", help="only export")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.bundles or Path(scratch)
        paths = {name: prepare(name, folder, SIZE) for name in options.only}
        if options.prepare:
            return
        memory = {name: peak_memory(path, options.threads) for name, path in paths.items()}
        times = time_systems(paths, rounds=options.rounds, threads=options.threads, size=SIZE)
        found = {name: describe(name, paths[name], times[name], memory[name]) for name in paths}
    machine = describe_machine(options.threads)
    versions = machine["versions"]
    head = (
        f"{machine['processor']}, {options.threads} threads, ONNX Runtime "
        f"{versions.get('onnxruntime')}, {options.rounds} interleaved rounds."
    )
    content = {"machine": machine, "size": SIZE, "systems": found}
    write_results("models", content, make_table(found, SIZE, head))


if __name__ == "__main__":
    main()

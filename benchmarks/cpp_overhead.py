"""The C++ library against a bare C program with the same graph and the same ONNX Runtime.

Start-up and memory: each in its own process, in turn. Time per frame: both in one process, in turn,
as CPU time of the calling thread, on one thread. A small graph at the same size shows differences
that the variation of the network would hide. Writes
benchmarks/results/cpp_overhead.json and .md. Build first: see docs/cpp.md, with STREAMSEG_TESTS=ON.

    python -m benchmarks.cpp_overhead out/street --build build/cpp-plain
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.measuring import RESULTS, describe_machine
from streamseg.plugins.loader import find_library
from streamseg.runtime.bundle.bundle import read_bundle
from tests.runtime.smoothing import write_smoothing_bundle

FIELDS = {
    "open_s": "Opening, seconds",
    "open_cpu_s": "Opening, processor seconds",
    "peak_mb": "Peak memory, MB",
    "end_mb": "Memory after the last frame, MB",
    "step_ms": "Frame, processor milliseconds",
}


def run(program: Path, mode: str, bundle: Path, size: tuple[int, int], steps: int) -> Any:
    """One run of ``overhead``; its JSON."""
    capi = Path(onnxruntime.__file__).parent / "capi"
    library = next(capi.glob("libonnxruntime.so*"))
    command = [program, mode, bundle, library, 1, steps, find_library()]
    environment = {**os.environ, "STREAMSEG_SIZE": f"{size[0]}x{size[1]}"}
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, check=True, env=environment, text=True
    )
    return json.loads(done.stdout)


def measure(
    program: Path, bundle: Path, folder: Path, *, rounds: int, steps: int
) -> dict[str, Any]:
    """Medians of both programs over ``rounds`` runs, and over ``steps`` frames a round."""
    frame = read_bundle(bundle).manifest.frame
    size = (frame.height, frame.width)
    found: dict[str, list[dict[str, float]]] = {"bare": [], "library": []}
    ratios, extra = [], []
    small = write_smoothing_bundle(folder / "small", size)
    for _ in range(rounds):
        both = run(program, "both", small, size, 10 * steps)
        extra.append(both["library_us"] - both["bare_us"])
        both = run(program, "both", bundle, size, steps)
        ratios.append(both["library_us"] / both["bare_us"])
        for name, rows in found.items():
            row = run(program, name, bundle, size, 8)
            row = {k.replace("_kb", "_mb"): v / 1024 if "_kb" in k else v for k, v in row.items()}
            rows.append({**row, "step_ms": both[f"{name}_us"] / 1e3})
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in FIELDS}
        for name, rows in found.items()
    }
    return {
        **medians,
        "step_ratios": ratios,
        "small_extra_us": extra,
        "rounds": rounds,
        "steps": steps,
        "size": size,
    }


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = found["machine"]
    lines = [
        "# C++ library against a bare C program",
        "",
        f"{machine['processor']}, one thread, ONNX Runtime {machine['versions']['onnxruntime']}, "
        f"{found['bundle']} at {found['size'][0]}x{found['size'][1]}, commit {machine['commit']}; "
        f"medians of {found['rounds']} rounds.",
        "",
        "| | bare | library | ratio |",
        "|---|---|---|---|",
    ]
    for key, label in FIELDS.items():
        bare, library = found["bare"][key], found["library"][key]
        ratio = statistics.median(found["step_ratios"]) if key == "step_ms" else library / bare
        lines.append(f"| {label} | {bare:.3f} | {library:.3f} | {ratio:.4f} |")
    ratios, extra = found["step_ratios"], found["small_extra_us"]
    share = statistics.median(extra) / 10 / found["bare"]["step_ms"]
    lines += [
        "",
        f"Ratio of a frame over the rounds: {min(ratios):.4f} to {max(ratios):.4f}, which is the "
        "network's own variation.",
        "",
        f"Over a small graph of the same size a frame takes {statistics.median(extra):.0f} "
        f"microseconds more than in the bare program ({min(extra):.0f} to {max(extra):.0f} over "
        f"the rounds): {share:.2f} % of a frame of {found['bundle']}.",
        "",
        "Made by `python -m benchmarks.cpp_overhead BUNDLE --build FOLDER`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--build", type=Path, required=True, help="folder of the C++ build")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = given.build / "overhead"
        found = measure(program, given.bundle, Path(folder), rounds=given.rounds, steps=given.steps)
    found = {"machine": describe_machine(1), "bundle": given.bundle.name, **found}
    (RESULTS / "cpp_overhead.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "cpp_overhead.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()

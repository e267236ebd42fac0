"""The gain of a fleet from preparing the next frame, of any stream, while a step runs.

streamseg export samples/street/street.safetensors --size 256x512 -o out/street
python benchmarks/overlap.py out/street     # writes benchmarks/results/overlap.{json,md}

The same fleet of looped 720p files runs for some seconds with at most one step in progress, and
with two, in turn, several times. Frames are resized, and results are resized back and consumed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np
from measuring import describe_machine, write_results

import streamseg
from streamseg.runtime.loop.fleet import Fleet
from streamseg.runtime.session.policy import StatePolicy

SIZE = (720, 1280)
COUNTS = (1, 4)
AHEAD = "streamseg.runtime.loop.round_robin.AHEAD"


def write_clip(path: Path) -> None:
    """A second of a moving pattern at 720p."""
    base = np.random.default_rng(0).integers(0, 256, (SIZE[0] // 16, SIZE[1] // 16, 3), np.uint8)
    base = np.repeat(np.repeat(base, 16, axis=0), 16, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "28", "g": "25", "bf": "0"}
        for index in range(25):
            image = np.roll(base, 4 * index, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def measure_rate(fleet: Fleet, clip: Path, *, count: int, seconds: float) -> float:
    """Label maps per second of ``count`` streams of a looped clip, after all have started."""
    for number in range(count):
        address = f"{clip}#loop&decode-threads=1"
        fleet.add(f"s{number}", address, policy=StatePolicy(scene_cut=float("inf")))
    seen, frames, began = set[str](), 0, 0.0
    for done in fleet:
        seen.add(done.stream)
        now = time.perf_counter()
        if len(seen) < count:
            continue
        began = began or now
        frames += 1
        if now - began > seconds:
            return frames / (now - began)
    raise AssertionError("the files are looped")


def measure(bundle: Path, clip: Path, *, count: int, under_way: int, seconds: float) -> float:
    """Label maps per second with so many steps under way."""
    with patch(AHEAD, under_way - 1), streamseg.open_fleet(bundle, threads=1) as fleet:
        return measure_rate(fleet, clip, count=count, seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip)
        for count in COUNTS:
            rates: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(arguments.rounds):
                for under_way, measured in rates.items():
                    rate = measure(
                        arguments.bundle,
                        clip,
                        count=count,
                        under_way=under_way,
                        seconds=arguments.seconds,
                    )
                    measured.append(rate)
            gains = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
            rows.append(
                {
                    "streams": count,
                    "one": statistics.median(rates[1]),
                    "two": statistics.median(rates[2]),
                    "gain": statistics.median(gains),
                    "gains": gains,
                }
            )
    machine = describe_machine(1)
    write_results("overlap", {"machine": machine, "rows": rows}, describe(rows, machine))


def describe(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, 1 thread a step, commit "
        f"{machine['commit']}; ONNX Runtime on the CPU, 720p H.264 files, street TV3S at 256x512; "
        "medians of interleaved rounds; `python benchmarks/overlap.py BUNDLE`\n",
        "| streams | label maps/s, one step under way | two under way | gain (least to most) |",
        "|---|---|---|---|",
    ]
    for row in rows:
        low, high = min(row["gains"]) - 1, max(row["gains"]) - 1
        lines.append(
            f"| {row['streams']} | {row['one']:.1f} | {row['two']:.1f} "
            f"| {row['gain'] - 1:+.1%} ({low:+.1%} to {high:+.1%}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

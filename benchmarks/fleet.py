"""The cost of hundreds of streams in one process: memory, threads, rate, and fairness.

python samples/smoothing_bundle.py out/smooth --size 48x64
python benchmarks/fleet.py out/smooth     # writes benchmarks/results/fleet.{json,md}

Every stream decodes its own looped H.264 file as fast as its frames are read. The model is a toy:
the table shows the cost of the streams around it. Each number of streams runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
from measuring import describe_machine, write_results

import streamseg
from streamseg.runtime.session.policy import StatePolicy

COUNTS = (1, 50, 100, 200)
SIZE = (360, 640)
SECONDS = 15.0
NO_CUTS = StatePolicy(scene_cut=float("inf"))


def write_clip(path: Path) -> None:
    """Two seconds of a moving pattern, 360p, like a camera's sub-stream."""
    base = np.random.default_rng(0).integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
    base = np.repeat(np.repeat(base, 8, axis=0), 8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "28", "g": "25", "bf": "0"}
        for index in range(50):
            image = np.roll(base, 4 * index, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def measure(bundle: Path, clip: Path, count: int, seconds: float) -> dict[str, Any]:
    """Run ``count`` streams in this process until all gave frames, then for some seconds."""
    page = os.sysconf("SC_PAGE_SIZE")
    frames: Counter[str] = Counter()
    with streamseg.open_fleet(bundle, threads=1) as fleet:
        bare = int(Path("/proc/self/statm").read_text().split()[1]) * page
        began = time.monotonic()
        for number in range(count):
            fleet.add(f"s{number}", f"{clip}#loop&decode-threads=1", policy=NO_CUTS)
        joined, ready = set[str](), 0.0
        for done in fleet:
            joined.add(done.stream)
            now = time.monotonic()
            if len(joined) < count:
                continue
            ready = ready or now
            frames[done.stream] += 1
            if now - ready > seconds:
                break
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
        return {
            "streams": count,
            "seconds_until_all_run": round(ready - began, 2),
            "fps": sum(frames.values()) / seconds,
            "fewest_frames": min(frames.values()),
            "most_frames": max(frames.values()),
            "resident_bytes": resident,
            "resident_bytes_per_stream": (resident - bare) // count,
            "threads": len(list(Path("/proc/self/task").iterdir())),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    if arguments.count:
        result = measure(arguments.bundle, arguments.clip, arguments.count, arguments.seconds)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip)
        rows = []
        for count in COUNTS:
            command = [sys.executable, __file__, str(arguments.bundle), "--clip", str(clip)]
            command += ["--count", str(count), "--seconds", str(arguments.seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
    machine = describe_machine(1)
    write_results("fleet", {"machine": machine, "rows": rows}, describe(rows, machine))


def describe(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The table as Markdown."""
    names = ("streams", "label maps/s, all", "frames of a stream, fewest-most", "resident MB")
    names += ("MB a stream", "threads", "s until all run")
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}; 360p H.264 "
        "files, toy model; `python benchmarks/fleet.py BUNDLE`\n",
        "| " + " | ".join(names) + " |",
        "|---" * len(names) + "|",
    ]
    for row in rows:
        cells = (
            row["streams"],
            round(row["fps"]),
            f"{row['fewest_frames']}-{row['most_frames']}",
            round(row["resident_bytes"] / 1e6),
            f"{row['resident_bytes_per_stream'] / 1e6:.1f}",
            row["threads"],
            row["seconds_until_all_run"],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Resident memory of a stream over many frames, in a process that contains only the runtime.

python benchmarks/memory.py BUNDLE    # writes benchmarks/results/memory.{json,md}
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_machine, write_results

import streamseg

WARM_UP = 1500
EVERY = 100


def measure(bundle: Path, frames: int) -> dict[str, Any]:
    """Bytes resident every ``EVERY`` frames after the warm-up."""
    page = os.sysconf("SC_PAGE_SIZE")
    with streamseg.open(bundle, native=True, threads=2) as stream:
        spec = stream.manifest.frame
        random = np.random.default_rng(0)
        clip = random.integers(0, 256, (25, spec.height, spec.width, 3), dtype=np.uint8)
        samples = np.zeros(frames // EVERY + 1, dtype=np.int64)
        for index in range(WARM_UP + frames + 1):
            stream.step(clip[index % len(clip)])
            if index >= WARM_UP and (index - WARM_UP) % EVERY == 0:
                with open("/proc/self/statm") as file:  # noqa: PTH123  (no Path: it allocates)
                    samples[(index - WARM_UP) // EVERY] = int(file.read().split()[1]) * page
    return {
        "frames": frames,
        "warm_up": WARM_UP,
        "resident_bytes": [int(value) for value in samples],
        "growth_bytes": int(samples[-1] - samples[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=5000)
    arguments = parser.parse_args()
    result = {"machine": describe_machine(2), **measure(arguments.bundle, arguments.frames)}
    resident = result["resident_bytes"]
    table = (
        f"Resident memory over {result['frames']} frames after {WARM_UP} of warm-up, "
        f"native bundle; {result['machine']['processor']}, commit {result['machine']['commit']}: "
        f"{resident[0] / 1e6:.1f} MB at first, {result['growth_bytes']:+,} bytes at the end.\n"
    )
    write_results("memory", result, table)


if __name__ == "__main__":
    main()

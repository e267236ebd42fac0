"""Peak resident MB of a bundle in a process that contains only the runtime, after a whole period.

python benchmarks/peak.py BUNDLE THREADS [backend=NAME precision=NAME lowering]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import streamseg
from streamseg.runtime.bundle.manifest import Manifest


def open_steady(path: Path, threads: int, **options: Any) -> streamseg.Stream:
    """A stream whose next step is one of the steady schedule, past any warm-up."""
    stream = streamseg.open(path, threads=threads, **options)
    random = np.random.default_rng(0)
    for spec in stream.manifest.state:
        if spec.kind == "given":
            stream.give(spec.name, random.standard_normal(spec.shape).astype(spec.dtype))
    last = max(row.start for row in stream.manifest.schedule)
    if last:
        stream.restore(replace(stream.snapshot(), step=last))
    return stream


def period(manifest: Manifest) -> int:
    """Steps after which the steady schedule repeats."""
    return max(row.every for row in manifest.schedule)


def main() -> None:
    """Run every graph of the steady schedule and print the peak."""
    options: dict[str, Any] = dict(
        argument.split("=") for argument in sys.argv[3:] if argument != "lowering"
    )
    if "lowering" in sys.argv[3:]:
        options["native"] = False
    stream = open_steady(Path(sys.argv[1]), int(sys.argv[2]), **options)
    spec = stream.manifest.frame
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    for _ in range(period(stream.manifest) + 1):
        stream.step(frame)
    # Not getrusage: its value starts at the parent's peak.
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    print(int(peak.split()[1]) / 1024)


if __name__ == "__main__":
    main()

"""A process that has one bundle open and runs a step on request, to measure peers in turn.

The process imports nothing but NumPy and streamseg, so that an older streamseg can be measured too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import streamseg


class Peer:
    """The process, seen from outside.

    Args:
        opening: arguments of ``streamseg.open``.
        source: folder that the process imports streamseg from; ``None``: this one's.
    Raises:
        RuntimeError: the process ended; its error is on standard error.
    """

    def __init__(self, opening: dict[str, Any], *, source: Path | None = None) -> None:
        path = {} if source is None else {"PYTHONPATH": str(source)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(opening)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | path,
        )
        self.description = self._answer()

    def step(self) -> float:
        """Milliseconds of the next step."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a peer ended; its error is above")
        return line

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def step_on_request(opening: dict[str, Any]) -> None:
    """Print a description, then the milliseconds of a step for every line of standard input."""
    stream = streamseg.open(**opening)
    frame = stream.manifest.frame
    frames = np.random.default_rng(0).integers(
        0, 256, (4, frame.height, frame.width, 3), dtype=np.uint8
    )
    last = max(row.start for row in stream.manifest.schedule)
    for index in range(min(last, 12) + 2):  # past the warm-up rows of the schedule
        stream.step(frames[index % 4])
    print(stream.execution, flush=True)
    for index, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        stream.step(frames[index % 4])
        print((time.perf_counter() - started) * 1e3, flush=True)


if __name__ == "__main__":
    step_on_request(json.loads(sys.argv[1]))

"""Which of several ways to run a bundle is faster: some steps of each, in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from streamseg.runtime.backends.interface import Executable, plan_step
from streamseg.runtime.bundle.manifest import Manifest

# Steps of one peer: enough to tell which is faster, few enough not to be noticed.
ROUNDS = 7
WARM_UP = 2
SECONDS = 4.0


@dataclass(frozen=True)
class Measurement:
    """Median milliseconds of a step of each peer: a backend, or a precision."""

    medians: Mapping[str, float]

    @property
    def fastest(self) -> str:
        """Name of the peer with the smallest median."""
        return min(self.medians, key=lambda name: self.medians[name])

    def describe(self) -> str:
        """``openvino 25.3 ms a step, onnxruntime 40.1``."""
        order = sorted(self.medians, key=lambda name: self.medians[name])
        first, *others = (f"{name} {self.medians[name]:.1f}" for name in order)
        return ", ".join([f"{first} ms a step", *others])


def measure(executables: Mapping[str, Executable], manifest: Manifest) -> Measurement:
    """Time steps of several peers in turn, on noise and scratch state.

    Args:
        executables: by name; each gets a lane that is closed in the end.
        manifest: of the bundle that all have loaded.
    """
    lanes = {name: executable.new_lane() for name, executable in executables.items()}
    noise = np.random.default_rng(0).integers(0, 256, manifest.frame.shape[1:], dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in lanes}
    end = time.monotonic() + SECONDS
    try:
        for step in range(WARM_UP + ROUNDS):
            for name, lane in lanes.items():
                lane.frame[...] = noise
                start = time.perf_counter()
                lane.start(plan_step(manifest, step))
                lane.finish()
                times[name].append((time.perf_counter() - start) * 1e3)
            if step > WARM_UP and time.monotonic() > end:
                break
    finally:
        for lane in lanes.values():
            lane.close()
    return Measurement({name: median(taken[WARM_UP:]) for name, taken in times.items()})

"""How a fleet shares the cores: all on one step, or a step on each; measured, then remembered."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from streamseg.runtime.backends import choices
from streamseg.runtime.backends.gpu import find_gpu
from streamseg.runtime.bundle.bundle import promised_identity, read_manifest
from streamseg.runtime.stream import Stream, open_stream

logger = logging.getLogger(__name__)

CPU_BACKENDS = ("onnxruntime", "openvino")
WAYS = ("one", "parallel")
# A step on each core doubles the time to a label map, so that little more of them is not enough.
LEAST_GAIN = 1.1
ROUNDS = 3
SECONDS = 2.0

Measure = Callable[[str | os.PathLike[str], Mapping[str, Any], int], Mapping[str, float]]


def share_cores(
    bundle: str | os.PathLike[str],
    streams: int,
    options: Mapping[str, Any],
    *,
    measure: Measure | None = None,
) -> dict[str, int]:
    """Options of ``open_stream`` that share the cores among the steps of a fleet.

    Args:
        bundle: as of ``open_stream``.
        streams: that will be stepped.
        options: of ``open_stream``; with ``threads`` or ``parallel`` nothing is chosen.
        measure: milliseconds a step of each way, for so many cores; by default it opens the bundle
            both ways, one after the other, and steps it for some seconds.

    Returns:
        ``threads`` and ``parallel``, or nothing: one step at a time, on all cores.
    Raises:
        BundleError, BackendError, PluginNotFound: as ``open_stream``.
    """
    cores = len(os.sched_getaffinity(0))
    if not 1 < cores <= streams or not _may_share(options):
        return {}
    # The files are verified when the bundle is opened; this reads its manifest alone.
    manifest = read_manifest(Path(bundle))
    if manifest.frame.batch > 1:
        return {}
    named = sorted((name, str(value)) for name, value in options.items())
    identity = promised_identity(manifest)
    facts = ["shares", identity, *map(str, named), *_versions(), str(cores)]
    place = choices.place_of(facts)
    known: Mapping[str, float] | None = choices.recall(place, WAYS)
    if known is None:
        known = (measure or measure_shares)(bundle, options, cores)
        choices.remember(place, known)
    gain = known["one"] / known["parallel"]
    logger.info("%d steps at once, one a core: %.2f times as many frames", cores, gain)
    return {"threads": 1, "parallel": cores} if gain >= LEAST_GAIN else {}


def _may_share(options: Mapping[str, Any]) -> bool:
    """Whether the options leave the choice, and the bundle runs on the CPU."""
    if any(options.get(name) is not None for name in ("threads", "parallel", "engine")):
        return False
    if options.get("device") not in (None, "CPU"):
        return False
    backend = options.get("backend", "auto")
    return backend in CPU_BACKENDS or (backend == "auto" and find_gpu() is None)


def _versions() -> list[str]:
    found = []
    for name in CPU_BACKENDS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def measure_shares(
    bundle: str | os.PathLike[str], options: Mapping[str, Any], cores: int
) -> dict[str, float]:
    """Milliseconds a step with all cores on it, and with a step on each core."""
    found = {}
    for way, shares in zip(WAYS, ({}, {"threads": 1, "parallel": cores}), strict=True):
        with open_stream(bundle, **{**options, **shares}) as stream:
            found[way] = _time_steps(stream, cores)
    return found


def _time_steps(stream: Stream, count: int) -> float:
    """Milliseconds a step, of ``count`` streams that begin together; medians of some rounds."""
    siblings = [stream.sibling() for _ in range(count)]
    spec = stream.manifest.frame
    noise = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    times: list[float] = []
    end = time.monotonic() + SECONDS
    while len(times) < 1 + ROUNDS and (len(times) < 2 or time.monotonic() < end):
        start = time.perf_counter()
        for sibling in siblings:
            sibling.begin(noise)
        for sibling in siblings:
            sibling.finish()
        times.append((time.perf_counter() - start) * 1e3 / count)
    for sibling in siblings:
        sibling.close()
    return median(times[1:])

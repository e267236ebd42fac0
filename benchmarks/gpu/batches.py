"""Frames a second of fleets of 1, 4 and 16 streams on a GPU, with a step for each or for all.

    python benchmarks/gpu/batches.py BUNDLE ... --out batches.json
    python benchmarks/gpu/batches.py BUNDLE --out batches.json --backend onnxruntime --seconds 1

BUNDLE serves one stream a step. Its versions for several streams are BUNDLE-batch4 and
BUNDLE-batch16 beside it, or are made by ``streamseg.export.batched_bundle``, which needs the onnx
package. Frames come from memory, as fast as they are taken. Before the timing, streams of a batch
are compared with the same streams alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import streamseg
from streamseg.runtime.loop.fleet import Fleet
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.sources.frame import Frame

COUNTS = (1, 4, 16)
CLIP, STEPS = 8, 6
NO_CUTS = StatePolicy(scene_cut=float("inf"))


class MemorySource:
    """The same few frames again and again."""

    on_event = None
    detail, fps, frame_count, live = "memory", 25.0, None, False
    corrupt, reconnects, passed_over = 0, 0, 0

    def __init__(self, images: list[NDArray[np.uint8]], name: str) -> None:
        self._images, self.name, self._closed = images, name, False
        self.size = (images[0].shape[0], images[0].shape[1])

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while not self._closed:
            yield Frame(self._images[index % len(self._images)], index, index / self.fps)
            index += 1

    def stop(self) -> None:
        """End the iteration."""
        self._closed = True

    def close(self) -> None:
        """Hold nothing open."""
        self.stop()

    def __enter__(self) -> MemorySource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def clip(stream: streamseg.Stream, seed: int) -> list[NDArray[np.uint8]]:
    """Coarse noise that drifts."""
    spec = stream.manifest.frame
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (spec.height // 16, spec.width // 16, 3), dtype=np.uint8)
    canvas = coarse.repeat(16, axis=0).repeat(16, axis=1)
    return [np.roll(canvas, (3 * t, 5 * t), axis=(0, 1)) for t in range(CLIP)]


def rate(bundle: Path, backend: str, streams: int, seconds: float) -> dict[str, Any]:
    """Frames a second of a fleet, after every stream has given a few."""
    with streamseg.open(bundle, backend=backend, reuse=True) as stream:
        fleet = Fleet(stream)
        for number in range(streams):
            images = clip(stream, number)

            def open_it(_stop: threading.Event, images: Any = images, number: int = number) -> Any:
                return MemorySource(images, f"s{number}")

            fleet.add(f"s{number}", open_it, policy=NO_CUTS)
        seen, began, counted, waited = 0, 0.0, 0, 0.0
        for done in fleet:
            seen += 1
            if seen < 5 * streams:
                continue
            began = began or time.perf_counter()
            waited += done.result.timings["step"]
            counted += 1
            if counted > streams and time.perf_counter() - began > seconds:
                break
        took = time.perf_counter() - began
        fleet.stop()
        fleet.close()
        return {"frames_per_second": counted / took, "ms_waited": 1e3 * waited / counted}


def compare(single: Path, batched: Path, backend: str) -> dict[str, Any]:
    """Streams of a batch against the same streams alone; a stream is reset in the middle."""
    with (
        streamseg.open(single, backend=backend) as one,
        streamseg.open(batched, backend=backend) as many,
    ):
        alone, together = ([s.sibling() for _ in range(3)] for s in (one, many))
        images = [clip(one, seed) for seed in range(3)]
        agreed = []
        for step in range(STEPS):
            present = [0, 1, 2] if step != 2 else [0, 2]
            if step == 4:
                alone[0].reset()
                together[0].reset()
            for place in present:
                together[place].begin(images[place][step])
            for place in present:
                got = together[place].finish().labels
                agreed.append(float((got == alone[place].step(images[place][step]).labels).mean()))
        errors = [0.0]
        for a, b in zip(alone, together, strict=True):
            ours, theirs = b.snapshot().tensors, a.snapshot().tensors
            for name, want in theirs.items():
                difference = np.abs(ours[name].astype(np.float64) - want).max()
                errors.append(float(difference / max(float(np.abs(want).max()), 1e-12)))
        identical = max(errors) == 0.0 and min(agreed) == 1.0
        return {"labels_min": min(agreed), "state": max(errors), "bit_equal": identical}


def version(bundle: Path, count: int, scratch: Path) -> Path:
    """The bundle for so many streams a step."""
    beside = bundle.with_name(f"{bundle.name}-batch{count}")
    if count == 1 or beside.is_dir():
        return bundle if count == 1 else beside
    from streamseg.export import batched_bundle

    path = scratch / beside.name
    if not path.is_dir():
        # It compares on the CPU, where float16 is slow; here the device's streams are compared.
        with mock.patch.object(batched_bundle, "_compare", return_value={}):
            batched_bundle.batch_bundle(bundle, path, count)
    return path


def measure(bundle: Path, options: argparse.Namespace, scratch: Path, found: Any) -> None:
    for streams in options.streams:
        entry = found.setdefault(str(streams), {})
        entry["a step for each"] = rate(bundle, options.backend, streams, options.seconds)
        if streams > 1:
            batched = version(bundle, streams, scratch)
            entry["against single streams"] = compare(bundle, batched, options.backend)
            entry["a step for all"] = rate(batched, options.backend, streams, options.seconds)
        print(bundle.name, streams, json.dumps(entry), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--streams", type=int, nargs="+", default=COUNTS)
    options = parser.parse_args()
    found: dict[str, Any] = {"backend": options.backend, "seconds": options.seconds, "failed": []}
    with tempfile.TemporaryDirectory() as scratch:
        for bundle in options.bundles:
            try:
                measure(bundle, options, Path(scratch), found.setdefault(bundle.name, {}))
            except Exception as error:  # one bundle's failure must not cost the others' results
                traceback.print_exc()
                found["failed"].append(f"{bundle.name}: {type(error).__name__}: {error}")
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

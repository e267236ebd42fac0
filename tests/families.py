"""Bundles of every family for runtimes outside Python, with the labels of the Python runtime."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import streamseg
from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.bundle.bundle import digest
from streamseg.runtime.step_result import StepResult
from streamseg.runtime.stream import Stream

MOST_FRAMES = 24


@dataclass(frozen=True)
class Recording:
    """A bundle whose given states are files, and a run of it.

    Attributes:
        frames: ``[N, H, W, 3]``.
        labels: ``[N, H, W]``.
        margins: ``[N, H, W]``, the best logit less the second.
    """

    bundle: Path
    frames: np.ndarray
    labels: np.ndarray
    margins: np.ndarray


def record(exported: Path, folder: Path, *, native: bool) -> Recording:
    """Copy a bundle, fill its given states, and run it past every plan of its schedule."""
    bundle = folder / "bundle"
    shutil.copytree(exported, bundle)
    _give(bundle)
    rng = np.random.default_rng(3)
    with streamseg.open(bundle, native=native, threads=1) as stream:
        frame = stream.manifest.frame
        count = min(_period_of(stream) + 2, MOST_FRAMES)
        frames = rng.integers(0, 256, (count, frame.height, frame.width, 3), np.uint8)
        steps = [_labels_and_margins(stream.step(image)) for image in frames]
    labels, margins = (np.stack(part) for part in zip(*steps, strict=True))
    return Recording(bundle, frames, labels, margins)


def _labels_and_margins(result: StepResult) -> tuple[np.ndarray, np.ndarray]:
    assert result.logits is not None
    second, best = np.partition(result.logits, -2, axis=0)[-2:]
    return result.labels.copy(), best - second


def _give(bundle: Path) -> None:
    """Random values for every given state that the bundle leaves open."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for spec in manifest["state"]:
        if spec["init"] == "unset":
            values = np.random.default_rng(4).standard_normal(spec["shape"]).astype(spec["dtype"])
            np.save(bundle / "given.npy", values)
            spec["init"] = "file:given.npy"
            manifest["files"]["given.npy"] = digest((bundle / "given.npy").read_bytes())
    path.write_text(json.dumps(manifest))


def _period_of(stream: Stream) -> int:
    seen: dict[object, int] = {}
    for step in range(200):
        seen.setdefault(plan_step(stream.manifest, step), step)
    return max(seen.values()) + 1

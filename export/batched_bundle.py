"""A bundle whose steps serve several streams, made from one that serves one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from streamseg.errors import ExportError
from streamseg.export.batched_graph import batch_graph
from streamseg.runtime.bundle.bundle import (
    MANIFEST,
    Bundle,
    digest,
    new_bundle,
    read_bundle,
)
from streamseg.runtime.bundle.manifest import MAX_BATCH, Manifest
from streamseg.runtime.stream import Stream, open_stream

# Streams whose frames and resets differ are compared; a mixed-up stream differs by far more.
STREAMS, FRAMES = 3, 3
LIMIT, AGREEMENT_LIMIT = 1e-2, 0.99
REASONS = {
    "ring": "its steps read features of past frames from slots that its schedule picks by each "
    "stream's own count of frames",
    "key": "its schedule alternates between a graph for key frames and one for those between, and "
    "streams are not at the same frame of it",
    "given": "its state comes from outside the video, for each stream at a time of its own",
}


def batch_bundle(
    source: str | os.PathLike[str], path: str | os.PathLike[str], count: int
) -> Manifest:
    """Write the bundle ``source`` for ``count`` streams a step.

    Args:
        source: a bundle of one stream, of any precision.
        path: folder to write.
        count: streams N of a step.
    Returns:
        The manifest; its parity is the source's, with the comparison of both under ``batch``.
    Raises:
        ExportError: the bundle's streams cannot share a step, or get other results when they do.
        BundleError: ``source`` is damaged, or ``path`` cannot be written.
    """
    bundle = read_bundle(source)
    name = _require_batchable(bundle, count)
    content = batch_graph(onnx.load_from_string(bundle.graphs[name]), count)
    data = content.SerializeToString(deterministic=True)
    old, file = bundle.manifest, bundle.manifest.graphs[name].file
    manifest = replace(
        old,
        frame=replace(old.frame, batch=count),
        state=tuple(
            replace(spec, shape=(count * spec.shape[0], *spec.shape[1:])) for spec in old.state
        ),
        files={**old.files, file: digest(data)},
    )
    with new_bundle(path) as folder:
        for other in set(old.files) - {file}:
            target = folder / other
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((bundle.path / other).read_bytes())
        (folder / file).write_bytes(data)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        compared = _compare(bundle.path, folder)
        parity = {**old.parity, "parent": bundle.identity, "batch": compared}
        manifest = replace(manifest, parity=parity)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _require_batchable(bundle: Bundle, count: int) -> str:
    """Name of the one graph, whose every state is carried from frame to frame."""
    manifest = bundle.manifest
    if not 2 <= count <= MAX_BATCH:
        raise ExportError(f"batch is {count}, expected 2 to {MAX_BATCH} streams")
    if manifest.frame.batch != 1:
        raise ExportError(
            f"{bundle.path} serves {manifest.frame.batch} streams a step already; batch the bundle "
            "that it was made from"
        )
    family = manifest.model.get("family", "this network")
    for kind, reason in REASONS.items():
        if any(spec.kind == kind for spec in manifest.state):
            raise ExportError(
                f"{family} cannot be exported for several streams a step: {reason}. Export it "
                "without --batch"
            )
    if len(manifest.graphs) != 1:
        raise ExportError(
            f"{family} cannot be exported for several streams a step: it has "
            f"{len(manifest.graphs)} graphs, and streams are not at the same one. Export it "
            "without --batch"
        )
    return next(iter(manifest.graphs))


def _compare(single: Path, batched: Path) -> dict[str, Any]:
    """The batch's streams against the same streams alone, with a reset and an absent stream."""
    with (
        open_stream(single, backend="onnxruntime") as one,
        open_stream(batched, backend="onnxruntime", batch_wait_ms=0) as many,
    ):
        count = min(STREAMS, read_bundle(batched).manifest.frame.batch)
        alone = [one.sibling() for _ in range(count)]
        together = [many.sibling() for _ in range(count)]
        spec = one.manifest.frame
        random = np.random.default_rng(0)
        agreed, differs = [1.0], [0.0]
        for step in range(FRAMES):
            frames = [
                random.integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
                for _ in range(count)
            ]
            present = [place for place in range(count) if step != 1 or place != 1]
            if step == FRAMES - 1:
                alone[0].reset()
                together[0].reset()
            for place in present:
                together[place].begin(frames[place])
            for place in present:
                got, want = together[place].finish(), alone[place].step(frames[place])
                agreed.append(float((got.labels == want.labels).mean()))
        for place in range(count):
            differs += _state_errors(alone[place], together[place])
        execution = many.execution
    worst, least = max(differs), min(agreed)
    if not worst <= LIMIT or not least >= AGREEMENT_LIMIT:
        raise ExportError(
            f"streams of a batch differ from the same streams alone by {worst:.2g} of their state, "
            f"and {least:.2%} of their labels are equal; expected at most {LIMIT:g} and at least "
            f"{AGREEMENT_LIMIT:.0%}. Nothing was written"
        )
    return {"streams": count, "state_relative": worst, "labels_agreement": least, "with": execution}


def _state_errors(alone: Stream, together: Stream) -> list[float]:
    """Largest difference of every state, by the state's largest value."""
    ours, theirs = together.snapshot().tensors, alone.snapshot().tensors

    def error(name: str) -> float:
        want: NDArray[np.float64] = theirs[name].astype(np.float64)
        difference = np.abs(ours[name].astype(np.float64) - want).max(initial=0.0)
        return float(difference / max(np.abs(want).max(initial=0.0), 1e-12))

    return [error(name) for name in theirs]

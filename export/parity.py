"""How far a bundle's labels, logits and state are from those of what it was made from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.runtime.stream import Stream, open_stream

Array = NDArray[Any]


@dataclass
class ParityMeter:
    """Collects differences frame by frame; a value that is not finite counts as the largest."""

    frames: int = 0
    agreed: float = 0.0
    logits_max_abs: float | None = None
    logits_relative: float | None = None

    def add(self, ours: Array, theirs: Array) -> None:
        """Add a frame's labels."""
        self.agreed += float((ours == theirs).mean())
        self.frames += 1

    def add_logits(self, ours: Array, theirs: Array) -> None:
        """Add a frame's logits."""
        self.logits_max_abs = _worse(self.logits_max_abs, _largest(ours, theirs))
        self.logits_relative = _worse(self.logits_relative, _relative(ours, theirs))

    def result(self, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, Any]:
        """The manifest's figures, with the states after the last frame by name.

        States of whole numbers are ids, which flip at near ties: they are judged as labels are.
        """
        state_max_abs = state_relative = 0.0
        agreement = self.agreed / self.frames
        for name, reference in theirs.items():
            if reference.dtype.kind in "iu":
                agreement = min(agreement, float((ours[name] == reference).mean()))
                continue
            state_max_abs = _worse(state_max_abs, _largest(ours[name], reference))
            state_relative = _worse(state_relative, _relative(ours[name], reference))
        return {
            "frames": self.frames,
            "labels_agreement": agreement,
            "logits_max_abs": self.logits_max_abs,
            "state_max_abs": state_max_abs,
            "logits_relative": self.logits_relative,
            "state_relative": state_relative,
        }


def measure_derived(
    parent: str | os.PathLike[str],
    child: str | os.PathLike[str],
    clip: Sequence[NDArray[np.uint8]],
    *,
    native: bool | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Run a clip through a bundle and the bundle that it was derived from, both with state.

    Args:
        parent: for example the float32 bundle.
        child: for example the INT8 bundle made from it.
        clip: frames ``[H, W, 3]``; repeated until every row of the schedule was reached.
        native: as in ``streamseg.open``.
        threads: CPU threads of a step.
    Returns:
        The child's ``parity`` for the manifest: against what, ``parent`` (its identity), and the
        figures of ``ParityMeter``.
    """
    source = read_bundle(parent)
    steps = max(len(clip), *(row.start + 1 for row in source.manifest.schedule))
    meter = ParityMeter()
    with (
        open_stream(parent, backend="onnxruntime", native=native, threads=threads) as before,
        open_stream(child, backend="onnxruntime", native=native, threads=threads) as after,
    ):
        for stream in (before, after):
            _give_noise(stream, set(source.given))
        for step in range(steps):
            image = clip[step % len(clip)]
            expected, found = before.step(image), after.step(image)
            meter.add(found.labels, expected.labels)
            if expected.logits is not None and found.logits is not None:
                meter.add_logits(found.logits, expected.logits)
        figures = meter.result(after.snapshot().tensors, before.snapshot().tensors)
        execution = after.execution
    return {
        "against": f"the {source.manifest.precision_name} bundle that it was made from",
        "parent": source.identity,
        "with": execution,
        **figures,
    }


def noise(shape: tuple[int, ...], dtype: str) -> Array:
    """Seeded values for a given state."""
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _give_noise(stream: Stream, known: set[str]) -> None:
    for spec in stream.manifest.state:
        if spec.kind == "given" and spec.name not in known:
            stream.give(spec.name, noise(spec.shape, spec.dtype))


def moving_pattern(size: tuple[int, int], frames: int) -> list[NDArray[np.uint8]]:
    """A seeded clip of coarse drifting noise, so that state matters: uint8 ``[H, W, 3]`` each."""
    height, width = size
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    canvas = coarse.repeat(16, axis=0).repeat(16, axis=1)
    return [
        np.ascontiguousarray(np.roll(canvas, (3 * t, 5 * t), axis=(0, 1))[:height, :width])
        for t in range(frames)
    ]


def _worse(worst: float | None, error: float) -> float:
    """The larger of two; what is not a number counts as largest."""
    return error if worst is None or not error <= worst else worst


def _largest(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours.astype(np.float64) - theirs).max())


def _relative(ours: Array, theirs: Array) -> float:
    difference = np.linalg.norm(ours.astype(np.float64) - theirs)
    size = np.linalg.norm(theirs.astype(np.float64))
    return float(difference / size) if size else float(difference)

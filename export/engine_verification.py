"""Engines against ONNX Runtime on the CPU of the same machine, frame by frame, with state.

Released versions of TensorRT have computed wrong values for networks like ours without an error,
so no engine is trusted before it has agreed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.export.parity import noise
from streamseg.runtime.backends import BackendOptions, load_executable
from streamseg.runtime.backends.engine_files import EngineRecord, Verification
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.stream import Stream
from streamseg.scenes import SyntheticScene, parse_scene

Frame = NDArray[np.uint8]

FEWEST_FRAMES = 20
# Classes that must cover a hundredth of the pixels each, or the result is not conclusive.
CLASSES = 4
SHARE = 0.01
SCENE = "synthetic:street?seed=20&traffic=4"
# Precision -> share of labels that must agree, relative error of state and logits allowed, and
# difference of logits (of the frame's largest) at which two classes are tied: the rounding.
BARS = {"fp32": (0.999, 1e-3, 1e-5), "fp16": (0.995, 5e-2, 2**-10)}
INT8_MARGIN = 0.01
INT8_ERROR_MARGIN = 0.05


def verify_engines(
    bundle: Bundle,
    folder: Path,
    *,
    record: EngineRecord,
    clip: Sequence[Frame] | None = None,
    source: str = "a given clip",
    library: Path | None = None,
) -> Verification:
    """Run the same frames through engines and ONNX Runtime on the CPU, state carried by each.

    Args:
        bundle: what the engines were built from.
        folder: where the engines and their sidecars are.
        record: the sidecar of one of them.
        clip: frames ``[H, W, 3]``, repeated until 20 steps and two periods of the schedule are
            done; ``None`` draws a street.
        source: name of the clip.
        library: plugin library of the engines, instead of the installed one.
    Returns:
        The figures, the bars, and whether they were reached.
    Raises:
        BackendError: an engine does not run.
    """
    manifest = bundle.manifest
    steps = _count_steps(manifest, 0 if clip is None else len(clip))
    labels_bar, error_bar, tie = _bars(manifest, record.precision)
    meter = _Meter(tie)
    options = BackendOptions(engine=folder, library=library, warn_unverified=False)
    with (
        _open(bundle, record.flavour, options) as engine,
        _open(bundle, "onnxruntime", BackendOptions()) as reference,
    ):
        description = reference.execution
        for frame in itertools.islice(_frames(manifest, clip), steps):
            expected, found = reference.step(frame), engine.step(frame)
            meter.add(found.labels, expected.labels, expected.logits)
            if found.logits is not None and expected.logits is not None:
                meter.logits = max(meter.logits, _relative(found.logits, expected.logits))
            meter.add_state(engine.snapshot().tensors, reference.snapshot().tensors)
    quantised = record.precision.startswith("int8")
    labels = meter.mean if quantised else meter.worst
    return Verification(
        passed=labels >= labels_bar and max(meter.state, meter.logits) <= error_bar,
        conclusive=meter.classes >= min(CLASSES, len(manifest.classes)) and labels_bar > 0,
        frames=steps,
        source="a drawn street" if clip is None else source,
        classes=meter.classes,
        ties=meter.ties,
        labels=labels,
        labels_bar=labels_bar,
        state=meter.state,
        logits=meter.logits,
        error_bar=error_bar,
        reference=description,
    )


def _count_steps(manifest: Manifest, frames: int) -> int:
    """At least 20, and until every row of the schedule came twice."""
    rows = (row.start + 2 * row.every for row in manifest.schedule)
    return max(FEWEST_FRAMES, frames, *rows)


def _bars(manifest: Manifest, precision: str) -> tuple[float, float, float]:
    if precision in BARS:
        return BARS[precision]
    parity = manifest.parity
    own = parity.get("labels_agreement")
    if own is None:
        return 0.0, BARS["fp16"][1], BARS["fp16"][2]
    errors = (float(parity.get(name) or 0.0) for name in ("state_relative", "logits_relative"))
    return float(own) - INT8_MARGIN, max(errors) + INT8_ERROR_MARGIN, BARS["fp16"][2]


def _open(bundle: Bundle, backend: str, options: BackendOptions) -> Stream:
    executable = load_executable(bundle, backend, options)
    stream = Stream(executable, bundle.manifest, identity=bundle.identity, given=bundle.given)
    for spec in bundle.manifest.state:
        if spec.kind == "given" and spec.name not in bundle.given:
            stream.give(spec.name, noise(spec.shape, spec.dtype))
    return stream


def _frames(manifest: Manifest, clip: Sequence[Frame] | None) -> Iterator[Frame]:
    """Frames of the model's size, without end."""
    _, height, width, _ = manifest.frame.shape
    images: Iterator[Frame]
    if clip is None:
        images = (drawn.image for drawn in SyntheticScene(parse_scene(SCENE)).frames(0))
    else:
        images = itertools.cycle(clip)
    for image in images:
        yield np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


class _Meter:
    """Agreement of labels without ties, the largest error of a state, and the classes seen."""

    def __init__(self, tie: float) -> None:
        self._counts = np.zeros(256, np.int64)
        self._tie = tie
        self._agreed = self._compared = self._pixels = 0
        self.worst = 1.0
        self.state = self.logits = 0.0

    @property
    def mean(self) -> float:
        """Share of labels that agree, over all frames."""
        return self._agreed / self._compared if self._compared else 0.0

    @property
    def ties(self) -> float:
        """Share of pixels left out."""
        return 1 - self._compared / self._pixels

    @property
    def classes(self) -> int:
        """Classes of the reference that cover a hundredth of the pixels or more."""
        return int((self._counts >= SHARE * self._pixels).sum())

    def add(self, ours: Frame, theirs: Frame, logits: NDArray[np.float32] | None) -> None:
        """Compare a frame's labels; the reference's logits say where two classes are tied."""
        clear = np.ones(theirs.shape, bool)
        if logits is not None and len(logits) > 1:
            top = np.partition(logits, -2, axis=0)[-2:]
            clear = top[1] - top[0] > self._tie * np.abs(logits).max()
        equal = (ours == theirs) & clear
        agreed, compared = int(equal.sum()), int(clear.sum())
        if compared:
            self.worst = min(self.worst, agreed / compared)
        self._agreed += agreed
        self._compared += compared
        self._pixels += theirs.size
        self._counts += np.bincount(theirs.ravel(), minlength=256)

    def add_state(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
        """Compare the states after a step."""
        for name, wanted in theirs.items():
            self.state = max(self.state, _relative(ours[name], wanted))


def _relative(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Error by the size of what is wanted; what is not finite counts as infinitely wrong."""
    size = float(np.linalg.norm(theirs.astype(np.float64)))
    error = float(np.linalg.norm(ours.astype(np.float64) - theirs))
    relative = error / size if size else error
    return relative if np.isfinite(relative) else float("inf")

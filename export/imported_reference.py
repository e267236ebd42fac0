"""An ONNX file stepped as it came, by ONNX Runtime: what an imported bundle is compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import ExportError, raised_as
from streamseg.export.import_spec import ImportSpec
from streamseg.export.parity import ParityMeter, moving_pattern
from streamseg.runtime.stream import open_stream

FRAMES = 6
RELATIVE_LIMIT = 1e-3
AGREEMENT_LIMIT = 0.99
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}

Array = NDArray[Any]


class ReferenceRun:
    """The file itself, with frames normalised by NumPy and its state carried by hand.

    Args:
        source: the file.
        spec: what its inputs and outputs are.
        size: (H, W) of the frame.
    Attributes:
        shapes: state's input -> shape and type that its values settle at.
        count: number of classes.
    Raises:
        ExportError: ONNX Runtime cannot load or run it, or a state's shape changes at each step.
    """

    def __init__(
        self, source: str | os.PathLike[str], spec: ImportSpec, size: tuple[int, int]
    ) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        self.size, self.name = size, Path(source).name
        self._spec = spec
        with raised_as(ExportError, str(source)):
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(
                os.fspath(source), options, providers=["CPUExecutionProvider"]
            )
        self._inputs = {entry.name: entry for entry in self._session.get_inputs()}
        self._state: dict[str, Array] = {}
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self._settle()
        self.count = self._count_classes()

    def reset(self) -> None:
        """Back to the start of a stream."""
        self._state = {
            name: self._filled(name, self._spec.initial.get(name, 0.0))
            for name in self._spec.states
        }

    def step(self, image: NDArray[np.uint8]) -> Array:
        """Advance by a frame ``[H, W, 3]``; the output that labels are made from."""
        feeds = {self._spec.frame.name: self._normalise(image), **self._state}
        for name, value in self._spec.constants.items():
            feeds[name] = self._filled(name, value)
        names = [self._spec.output.name, *self._spec.states.values()]
        with raised_as(ExportError, self.name):
            shown, *states = self._session.run(names, feeds)
        self._state = dict(zip(self._spec.states, states, strict=True))
        return np.asarray(shown)

    def state(self) -> Mapping[str, Array]:
        """What the next step reads, by the input's name."""
        return self._state

    def labels(self, shown: Array) -> NDArray[np.uint8]:
        """Labels ``[H, W]`` of an output, resized by OpenCV."""
        kind = self._spec.output.kind
        if kind == "labels":
            return np.asarray(shown.reshape(self.size), np.uint8)
        planes = self.resize(shown)
        if kind == "alpha":
            return np.asarray(planes[0] > self._spec.output.threshold, np.uint8)
        return np.asarray(planes.argmax(0), np.uint8)

    def resize(self, shown: Array) -> NDArray[np.float32]:
        """Scores ``[K, H, W]`` at the frame's size."""
        planes = np.asarray(shown[0], np.float32)
        resized = [
            cv2.resize(plane, self.size[::-1], interpolation=cv2.INTER_LINEAR) for plane in planes
        ]
        return np.stack(resized).astype(np.float32)

    def _settle(self) -> None:
        """Run until the states' shapes repeat: files may start with one element for all."""
        self.reset()
        frames = moving_pattern(self.size, 3)
        shapes: list[dict[str, tuple[int, ...]]] = []
        for frame in frames:
            self._shown = self.step(frame)
            shapes.append({name: value.shape for name, value in self._state.items()})
        if shapes[-1] != shapes[-2]:
            raise ExportError(
                f"the states of {self.name} change their shape from step to step, "
                f"{shapes[-2]} then {shapes[-1]}; a bundle's state has a fixed shape"
            )
        self.shapes = {n: (v.shape, str(v.dtype)) for n, v in self._state.items()}
        self.reset()

    def _count_classes(self) -> int:
        shown, kind = self._shown, self._spec.output.kind
        name = self._spec.output.name
        if kind == "labels":
            if shown.size != self.size[0] * self.size[1]:
                raise ExportError(f"output '{name}' is {list(shown.shape)}, expected labels H x W")
            if not self._spec.classes:
                raise ExportError(
                    f"output '{name}' gives labels, which do not show how many classes there are: "
                    "name them with --classes A,B,..."
                )
            if int(shown.max()) >= len(self._spec.classes):
                raise ExportError(
                    f"output '{name}' gives label {int(shown.max())}, but --classes names only "
                    f"{len(self._spec.classes)} classes"
                )
            return len(self._spec.classes)
        if shown.ndim != 4 or shown.shape[0] != 1 or (kind == "alpha" and shown.shape[1] != 1):
            wanted = "[1, 1, h, w]" if kind == "alpha" else "[1, K, h, w]"
            raise ExportError(f"output '{name}' is {list(shown.shape)}, expected {wanted}")
        if kind == "logits" and shown.shape[1] < 2:
            raise ExportError(f"output '{name}' has one channel: give it as {name}:alpha")
        return 2 if kind == "alpha" else int(shown.shape[1])

    def _filled(self, name: str, value: float) -> Array:
        entry = self._inputs[name]
        if entry.type not in _TYPES:
            raise ExportError(f"input '{name}' is {entry.type}, expected a tensor of numbers")
        shape = [
            extent if isinstance(extent, int) else self._spec.dimensions.get(str(extent), 1)
            for extent in entry.shape
        ]
        return np.full(shape, value, _TYPES[entry.type])

    def _normalise(self, image: NDArray[np.uint8]) -> Array:
        frame = self._spec.frame
        pixels = image.astype(np.float32)
        if frame.dtype != "uint8":
            np.subtract(pixels, np.array(frame.mean, np.float32), out=pixels)
            np.divide(pixels, np.array(frame.std, np.float32), out=pixels)
        pixels = pixels[..., ::-1] if frame.bgr else pixels
        pixels = pixels.transpose(2, 0, 1) if frame.layout == "NCHW" else pixels
        return np.ascontiguousarray(pixels[None].astype(frame.dtype))


def compare_import(
    bundle: Path, reference: ReferenceRun, states: Mapping[str, str]
) -> dict[str, Any]:
    """Run a clip through the bundle and through the file, both with state.

    Args:
        bundle: folder.
        reference: the file.
        states: the bundle's name of a state -> its input in the file.
    Returns:
        The manifest's ``parity``.
    Raises:
        ExportError: they differ.
    """
    meter = ParityMeter()
    reference.reset()
    with open_stream(bundle, native=False) as stream:
        for image in moving_pattern(reference.size, FRAMES):
            result, shown = stream.step(image), reference.step(image)
            meter.add(result.labels, reference.labels(shown))
            if result.logits is not None:
                meter.add_logits(result.logits, reference.resize(shown))
        ours = stream.snapshot().tensors
        execution = stream.execution
    theirs = {name: np.asarray(reference.state()[source]) for name, source in states.items()}
    found = meter.result(ours, theirs)
    worst = max(found["state_relative"], found["logits_relative"] or 0.0)
    if not worst <= RELATIVE_LIMIT or not found["labels_agreement"] >= AGREEMENT_LIMIT:
        raise ExportError(
            f"the bundle differs from {reference.name} after {FRAMES} frames: states and logits by "
            f"{worst:.2g}, {found['labels_agreement']:.2%} of the labels agree; nothing was written"
        )
    return {
        "against": f"{reference.name} in ONNX Runtime",
        "with": execution,
        **found,
        "limit": RELATIVE_LIMIT,
        "limit_of": "relative",
    }

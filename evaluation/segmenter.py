"""What segments a video frame by frame with state: a bundle, or a checkpoint in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import BundleError
from streamseg.option_fields import option, precision_option
from streamseg.runtime.backends import BACKENDS
from streamseg.runtime.backends.interface import (
    OPENVINO_PRECISIONS,
    native_option,
    threads_option,
)
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.stream import Stream, open_stream
from streamseg.runtime.video.resize import Placement, whole_placement

Array = NDArray[np.generic]
Scaled = Literal["labels", "logits"]


@dataclass(frozen=True)
class SegmenterOptions:
    """How to open what is evaluated.

    ``backend``, ``native``, ``precision`` and ``threads`` concern bundles, as in
    ``streamseg.open``; ``size`` (H, W), ``settings`` and ``override`` concern checkpoints (see
    ``load_checkpoint``). ``scaled`` says what is brought to the labels' size: ``None`` takes the
    labels of a bundle, which are what it delivers, and the logits of a checkpoint, as papers do.
    """

    backend: str = option("Backend that runs the graphs.", default="auto", choices=BACKENDS)
    native: bool | None = native_option()
    precision: str | None = precision_option(
        default=None, choices=OPENVINO_PRECISIONS, unset="auto with OpenVINO"
    )
    size: tuple[int, int] | None = option("Frame size of the model.", default=None)
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = threads_option()
    scaled: Scaled | None = option(
        "Resize labels or logits to the size of the dataset's labels.",
        default=None,
        unset="labels of a bundle, logits of a checkpoint",
    )
    override: bool = False


@dataclass(frozen=True)
class Output:
    """What one frame gave; valid until the next step.

    Attributes:
        labels: (H, W) uint8 at the frame's size, as the runtime delivers them.
        placement: where the frame is on the model's frame.
        read_logits: gives (K, h, w) float32 at the model's size, ``None`` where there are none.
        scaled: what ``labels_at`` brings to another size.
    """

    labels: NDArray[np.uint8]
    placement: Placement
    read_logits: Callable[[], NDArray[np.float32] | None]
    scaled: Scaled = "labels"

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """(K, h, w) float32 at the model's size, or ``None``."""
        return self.read_logits()

    def labels_at(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Labels at ``size`` (H, W), to be compared with labels of that size.

        ``labels`` are taken as they are, or by nearest neighbour; ``logits`` are resized
        bilinearly before the argmax, as papers do.
        """
        if self.scaled == "logits" and (logits := self.logits) is not None:
            return np.asarray(self.placement.scores(logits, size).argmax(-1), np.uint8)
        if self.labels.shape == size:
            return self.labels
        height, width = self.labels.shape
        return whole_placement((height, width)).labels(self.labels, size)


class Segmenter(ABC):
    """One stream of frames through one model. Use with ``with``."""

    name: str
    """Shown in tables."""

    classes: tuple[ClassInfo, ...]

    assumed: Mapping[str, Any] = MappingProxyType({})
    """Settings of the network that its checkpoint does not give, with the values taken."""

    @abstractmethod
    def step(self, frame: NDArray[np.uint8]) -> Output:
        """Segment (H, W, 3) uint8 RGB of any size and advance the state."""

    @abstractmethod
    def reset(self) -> None:
        """Start a new stream: the state becomes what it is before the first frame."""

    @abstractmethod
    def state(self) -> Mapping[str, Array]:
        """Copies of the state tensors by their names in the state table, in its order."""

    def close(self) -> None:  # noqa: B027
        """Free what the model holds."""

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BundleSegmenter(Segmenter):
    """A bundle through the runtime, as it is deployed."""

    def __init__(self, path: Path, options: SegmenterOptions) -> None:
        if options.settings:
            raise BundleError(
                f"{path} is a bundle, whose network is fixed: --set is for checkpoints. "
                f"streamseg inspect {path} shows its settings"
            )
        self.name = str(path)
        self.path = path
        self._stream = open_stream(
            path,
            backend=options.backend,
            native=options.native,
            precision=options.precision,
            threads=options.threads,
        )
        self._scaled: Scaled = options.scaled or "labels"
        graphs = self._stream.manifest.graphs.values()
        if self._scaled == "logits" and any("logits" not in graph.outputs for graph in graphs):
            self._stream.close()
            raise BundleError(f"{path} has no logits to scale; export it again with --logits")
        self.classes = self._stream.manifest.classes
        self.assumed = self._stream.manifest.assumed
        self._names = [spec.name for spec in self._stream.manifest.state]

    @property
    def stream(self) -> Stream:
        """The stream that runs the bundle."""
        return self._stream

    def step(self, frame: NDArray[np.uint8]) -> Output:
        """Segment a frame; see ``Segmenter.step``."""
        result = self._stream.step(frame)
        return Output(result.labels, result.placement, lambda: result.logits, self._scaled)

    def reset(self) -> None:
        """Zero the state."""
        self._stream.reset()

    def state(self) -> Mapping[str, Array]:
        """Copies of the state tensors."""
        tensors = self._stream.snapshot().tensors
        return {name: tensors[name] for name in self._names}

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

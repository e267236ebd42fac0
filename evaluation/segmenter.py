"""What segments a video frame by frame with state: a bundle, or a checkpoint in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import BundleError
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.stream import open_stream
from streamseg.runtime.video.resize import nearest_indices

Array = NDArray[np.generic]


@dataclass(frozen=True)
class SegmenterOptions:
    """How to open what is evaluated.

    ``backend``, ``native`` and ``threads`` concern bundles, as in ``streamseg.open``; ``size``
    (H, W) and ``settings`` concern checkpoints (see ``load_checkpoint``).
    """

    backend: str = "auto"
    native: bool | None = None
    size: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None


@dataclass(frozen=True)
class Output:
    """What one frame gave; valid until the next step.

    ``labels`` is (H, W) uint8 at the frame's size, ``logits`` (K, h, w) float32 at the model's size
    or None where the bundle was exported without.
    """

    labels: NDArray[np.uint8]
    logits: NDArray[np.float32] | None

    def labels_at(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Labels at ``size`` (H, W), to be compared with labels of that size.

        Logits are resized bilinearly (half-pixel centres) before the argmax, which is exact;
        labels alone can only be repeated or dropped.
        """
        if self.logits is not None:
            return labels_from_logits(self.logits, size)
        if self.labels.shape == size:
            return self.labels
        rows = nearest_indices(self.labels.shape[0], size[0])
        return self.labels[rows][:, nearest_indices(self.labels.shape[1], size[1])]


def labels_from_logits(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (K, h, w) logits bilinearly to ``size`` (H, W) and take the largest: (H, W) uint8."""
    if logits.shape[1:] != size:
        # OpenCV resizes four channels at a time fastest, and any count up to 512.
        channels_last = np.ascontiguousarray(logits.transpose(1, 2, 0))
        resized = cv2.resize(channels_last, size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized.reshape(*size, -1).argmax(-1), np.uint8)
    return np.asarray(logits.argmax(0), np.uint8)


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
        self._stream = open_stream(
            path, backend=options.backend, native=options.native, threads=options.threads
        )
        self.classes = self._stream.manifest.classes
        self.assumed = self._stream.manifest.assumed
        self._names = [spec.name for spec in self._stream.manifest.state]

    def step(self, frame: NDArray[np.uint8]) -> Output:
        """Segment a frame; see ``Segmenter.step``."""
        result = self._stream.step(frame)
        return Output(result.labels, result.logits)

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

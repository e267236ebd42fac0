"""What one step of a stream hands out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.errors import SinkError
from streamseg.files import make_folder, whole_file
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.video.overlay import Overlay
from streamseg.runtime.video.resize import FrameFitter, Image, Placement

NO_CLASS = "none"
_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class BegunStep:
    """A step under way: who brings its labels back, its number, when it was begun and fitted."""

    frame: Image
    fitter: FrameFitter
    step: int
    started: float
    fitted: float


def class_areas(labels: Image, classes: Sequence[ClassInfo]) -> dict[str, float]:
    """The share of a label map that each class covers, 0 to 1, by name.

    Classes that do not occur are left out; ``none`` stands for pixels without a class.

    Args:
        labels: (height, width) uint8 class ids.
        classes: of the bundle.
    """
    names = {entry.id: entry.name for entry in classes}
    counts = np.bincount(labels.reshape(-1), minlength=256)
    areas: dict[str, float] = {}
    for label in np.flatnonzero(counts).tolist():
        name = names.get(label, NO_CLASS)
        areas[name] = areas.get(name, 0.0) + int(counts[label]) / labels.size
    return areas


class StepResult:
    """What one step hands out.

    Attributes:
        labels: ``[height, width]`` uint8 at the frame's size, class ids, 255 = none. They belong to
            the caller, unless the stream was opened with ``reuse``: then they hold until its next
            step.
        frame: ``[height, width, 3]`` uint8 RGB, the caller's own array, not a copy.
        classes: id, name and colour of each class.
        step: number of this frame since the last reset, from 0.
        timings: seconds spent in ``preprocess`` and ``step``.
        placement: where the frame is on the model's frame; brings what has the model's size,
            such as ``logits``, to the frame's.
    """

    __slots__ = (
        "_logits",
        "_read_logits",
        "classes",
        "frame",
        "labels",
        "placement",
        "step",
        "timings",
    )

    def __init__(
        self,
        labels: npt.NDArray[np.uint8],
        frame: Image,
        classes: tuple[ClassInfo, ...],
        *,
        step: int,
        timings: dict[str, float],
        placement: Placement,
        read_logits: Callable[[], npt.NDArray[np.float32] | None],
    ) -> None:
        self.labels, self.frame, self.classes = labels, frame, classes
        self.step, self.timings, self.placement = step, timings, placement
        self._read_logits = read_logits
        self._logits: npt.NDArray[np.float32] | None = None

    @property
    def logits(self) -> npt.NDArray[np.float32] | None:
        """``[K, H, W]`` float32 at the model's size, or ``None`` where the bundle has none.

        They are copied when first read, so read them before the stream's next step.

        Raises:
            StreamsegError: the stream has stepped on, and they were not read before.
        """
        if self._logits is None:
            self._logits = self._read_logits()
        return self._logits

    def areas(self) -> dict[str, float]:
        """The share of the frame that each class covers, 0 to 1, largest first.

        Classes that do not occur are left out; ``none`` stands for pixels without a class.
        """
        areas = class_areas(self.labels, self.classes)
        return dict(sorted(areas.items(), key=lambda entry: -entry[1]))

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> Image:
        """The frame with the classes in colour, as ``streamseg run`` draws it.

        Args:
            opacity: of the class colours, 0 to 1.
            legend: draw the names of the classes.
        Returns:
            ``[height, width, 3]`` uint8 RGB, a new array.
        Raises:
            SinkError: opacity out of range.
        """
        picture = np.empty_like(self.frame, order="C")
        Overlay(self.classes, opacity=opacity, legend=legend).draw(self.frame, self.labels, picture)
        return picture

    def save(
        self, path: str | os.PathLike[str], *, kind: Literal["overlay", "labels"] = "overlay"
    ) -> Path:
        """Write a picture.

        Args:
            path: ``.png``, or ``.jpg`` for the overlay. An older file is replaced as a whole.
            kind: ``overlay`` is what ``overlay()`` returns; ``labels`` is an 8-bit PNG of class
                ids, 255 = none.
        Returns:
            The path.
        Raises:
            SinkError: another suffix, or the file cannot be written.
        """
        target = Path(path)
        allowed = _PICTURES if kind == "overlay" else (".png",)
        if kind not in ("overlay", "labels") or target.suffix.lower() not in allowed:
            raise SinkError(
                f"cannot save {kind} to {target}: expected kind 'overlay' (.png, .jpg) or "
                "'labels' (.png, since JPEG would change class ids)"
            )
        picture = self.overlay()[..., ::-1] if kind == "overlay" else self.labels
        done, content = cv2.imencode(target.suffix.lower(), picture)
        if not done:
            raise SinkError(f"OpenCV cannot encode {target}")
        make_folder(target.parent, SinkError)
        with whole_file(target, SinkError) as draft:
            draft.write_bytes(content.tobytes())
        return target

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = [f"{name} {share:.0%}" for name, share in list(self.areas().items())[:3]]
        return f"StepResult(step {self.step}, {height}x{width}: {', '.join(shares)})"


@dataclass(frozen=True)
class DeviceStepResult:
    """What one step on the device hands out.

    Attributes:
        labels: ``[H, W]`` uint8 at the model's size, in device memory; ``cupy.from_dlpack`` and
            ``torch.from_dlpack`` take it without a copy. Valid until the step after next.
        step: number of this frame since the last reset, from 0.
    """

    labels: DeviceArray
    step: int

"""Fit frames of any size to the model's size, and bring label maps back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import SourceError
from streamseg.runtime.bundle.manifest import FrameSpec

Image: TypeAlias = NDArray[np.uint8]
Size: TypeAlias = tuple[int, int]
FitMode: TypeAlias = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class Region:
    """Rows ``top:bottom`` and columns ``left:right`` of the model's frame that hold the picture."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def of(self, image: Image) -> Image:
        """View of the region, (height, width, ...)."""
        return image[self.top : self.bottom, self.left : self.right]


def place_frame(frame_size: Size, model_size: Size, mode: FitMode) -> Region:
    """Where the picture lands on the model's frame.

    ``stretch`` fills it; ``letterbox`` keeps the aspect and centres the picture (an odd margin has
    its extra line below or on the right).
    """
    height, width = model_size
    if mode == "stretch":
        return Region(0, height, 0, width)
    scale = min(height / frame_size[0], width / frame_size[1])
    inner_height = min(height, max(1, round(frame_size[0] * scale)))
    inner_width = min(width, max(1, round(frame_size[1] * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return Region(top, top + inner_height, left, left + inner_width)


def choose_interpolation(from_size: Size, to_size: Size) -> int:
    """``cv2.INTER_AREA`` when an axis shrinks by more than two, else ``cv2.INTER_LINEAR``."""
    shrink = max(from_size[0] / to_size[0], from_size[1] / to_size[1])
    return cv2.INTER_AREA if shrink > 2 else cv2.INTER_LINEAR


def nearest_indices(source: int, target: int) -> NDArray[np.intp]:
    """For each of ``target`` samples the source sample at its centre: floor((i + 0.5) * s / t)."""
    return (2 * np.arange(target) + 1) * source // (2 * target)


@dataclass(frozen=True)
class Placement:
    """Where a frame lies on the model's frame: the one way from the model's pixels to its own.

    Attributes:
        frame_size: (height, width) of the source's frame.
        model_size: (height, width) of the model's input.
        region: what of the model's frame holds the picture; the rest is margin.
    """

    frame_size: Size
    model_size: Size
    region: Region

    def labels(self, labels: Image, size: Size | None = None) -> Image:
        """Labels (H, W) of the model at ``size``, by default the frame's, by nearest neighbour."""
        inner, target = self.region.of(labels), size or self.frame_size
        if inner.shape == target:
            return np.array(inner)
        rows = nearest_indices(inner.shape[0], target[0])
        columns = nearest_indices(inner.shape[1], target[1])
        return np.asarray(inner[rows][:, columns], np.uint8)

    def scores(self, scores: NDArray[np.float32], size: Size | None = None) -> NDArray[np.float32]:
        """Scores (K, H, W) of the model at ``size`` as (h, w, K), bilinear, half-pixel centres."""
        region, target = self.region, size or self.frame_size
        inner = scores[:, region.top : region.bottom, region.left : region.right]
        # OpenCV resizes four channels at a time fastest, and any count up to 512.
        last = np.ascontiguousarray(inner.transpose(1, 2, 0))
        if region.size != target:
            last = cv2.resize(last, target[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(last.reshape(*target, -1), np.float32)


def whole_placement(size: Size) -> Placement:
    """A frame of the model's own size."""
    return Placement(size, size, Region(0, size[0], 0, size[1]))


@dataclass(frozen=True)
class FittedFrame:
    """A frame at the model's size, made before its step.

    Attributes:
        fitter: resized it, and resizes the labels back.
        image: (height, width, 3) uint8 at the model's size.
    """

    fitter: FrameFitter
    image: Image


class FrameFitter:
    """Resizes frames of one size to the model's size and labels back; allocates only here.

    Args:
        frame_size: (height, width) of the source's frames.
        model_size: (height, width) of the model's input.
        mode: ``stretch``, or ``letterbox`` to keep the aspect.
        fill: RGB of the letterbox margins; the model's mean colour disturbs it least.

    Raises:
        SourceError: a size that is not positive.
    """

    def __init__(
        self,
        frame_size: Size,
        model_size: Size,
        mode: FitMode = "stretch",
        *,
        fill: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        for name, size in (("frame", frame_size), ("model", model_size)):
            if min(size) < 1:
                raise SourceError(f"{name} size is {size[0]}x{size[1]}; expected positive HxW")
        self.frame_size = frame_size
        self.model_size = model_size
        self.mode = mode
        self.region = place_frame(frame_size, model_size, mode)
        self.placement = Placement(frame_size, model_size, self.region)
        self._fill = np.array(fill, dtype=np.uint8)
        self._interpolation = choose_interpolation(frame_size, self.region.size)
        height, width = self.region.size
        self._rows = nearest_indices(height, frame_size[0])
        self._columns = nearest_indices(width, frame_size[1])
        self._widened = np.empty((height, frame_size[1]), dtype=np.uint8)
        self._restored = np.empty(frame_size, dtype=np.uint8)

    def fit(self, frame: Image, out: Image) -> None:
        """Write the resized frame into ``out``.

        Args:
            frame: (height, width, 3) uint8 at ``frame_size``.
            out: (height, width, 3) uint8 at ``model_size``, C-contiguous; overwritten whole.

        Raises:
            SourceError: the frame or the buffer has another shape or dtype.
        """
        self._require("frame", frame, (*self.frame_size, 3))
        self._require("buffer", out, (*self.model_size, 3))
        region = self.region
        if region.size != self.model_size:
            out[: region.top] = self._fill
            out[region.bottom :] = self._fill
            out[region.top : region.bottom, : region.left] = self._fill
            out[region.top : region.bottom, region.right :] = self._fill
        if region.size == self.frame_size:
            np.copyto(region.of(out), frame)
            return
        height, width = region.size
        cv2.resize(frame, (width, height), dst=region.of(out), interpolation=self._interpolation)

    def restore(self, labels: Image) -> Image:
        """Labels at the frame's size by nearest neighbour, pixel centres aligned.

        Args:
            labels: (height, width) uint8 at ``model_size``.

        Returns:
            (height, width) uint8 at ``frame_size``. Valid until the next call; it is a view of
            ``labels`` where no resize is needed.

        Raises:
            SourceError: the labels have another shape or dtype.
        """
        self._require("labels", labels, self.model_size)
        inner = self.region.of(labels)
        if self.region.size == self.frame_size:
            return inner
        # Not cv2.resize: INTER_NEAREST is half a pixel off from the bilinear way in, and
        # INTER_NEAREST_EXACT rounds ties unevenly. Gathering by index is exact and as fast.
        np.take(inner, self._columns, axis=1, out=self._widened, mode="clip")
        np.take(self._widened, self._rows, axis=0, out=self._restored, mode="clip")
        return self._restored

    @staticmethod
    def _require(name: str, array: Image, shape: tuple[int, ...]) -> None:
        if array.shape != shape or array.dtype != np.uint8:
            raise SourceError(
                f"{name} is {array.dtype} {list(array.shape)}; expected uint8 {list(shape)}"
            )


def fit_frames(spec: FrameSpec, mode: FitMode, frame_size: tuple[int, int]) -> FrameFitter:
    """The fitter of frames of a size to a bundle's frame; margins have its mean colour."""
    red, green, blue = (round(value) for value in spec.mean)
    return FrameFitter(frame_size, (spec.height, spec.width), mode, fill=(red, green, blue))

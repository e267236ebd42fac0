"""Whether an array is a frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from streamseg.errors import FrameMismatch
from streamseg.runtime.backends.arrays import DeviceFrame, is_device_array
from streamseg.runtime.bundle.manifest import FrameSpec


def check_frame(frame: npt.NDArray[np.uint8]) -> None:
    """Raise FrameMismatch unless ``frame`` is uint8 ``[height, width, 3]``."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        got = getattr(frame, "dtype", type(frame).__name__)
        hint = "; a frame in device memory goes to step_device" if is_device_array(frame) else ""
        raise FrameMismatch(f"frame is {got}, expected a uint8 array [height, width, 3]{hint}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise FrameMismatch(f"frame is {list(frame.shape)}, expected [height, width, 3] RGB")


def as_batch(frame: DeviceFrame, spec: FrameSpec) -> DeviceFrame:
    """A frame in device memory as the model takes it, ``[1, H, W, 3]``.

    Raises:
        FrameMismatch: it is not uint8 of the model's size.
    """
    array = frame.array
    if array.dtype != "uint8" or array.shape not in (spec.shape, spec.shape[1:]):
        raise FrameMismatch(
            f"frame on the device is {array.dtype} {list(array.shape)}, expected uint8 "
            f"{[spec.height, spec.width, 3]}, the model's size; resize it there first, or "
            "give it in host memory"
        )
    return replace(frame, array=replace(array, shape=spec.shape))

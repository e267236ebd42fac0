"""Whether an array is a frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamseg.errors import FrameMismatch
from streamseg.runtime.backends.arrays import is_device_array


def check_frame(frame: npt.NDArray[np.uint8]) -> None:
    """Raise FrameMismatch unless ``frame`` is uint8 ``[height, width, 3]``."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        got = getattr(frame, "dtype", type(frame).__name__)
        hint = "; a frame in device memory goes to step_device" if is_device_array(frame) else ""
        raise FrameMismatch(f"frame is {got}, expected a uint8 array [height, width, 3]{hint}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise FrameMismatch(f"frame is {list(frame.shape)}, expected [height, width, 3] RGB")

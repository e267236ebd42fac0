"""Cameras, through OpenCV and V4L2."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from streamseg.errors import SourceError
from streamseg.runtime.resize import Image, Size
from streamseg.runtime.sources.folder import natural_key
from streamseg.runtime.sources.frame import Frame

DEFAULT_FPS = 30.0


def list_cameras() -> list[str]:
    """Device files of the machine's V4L2 devices, in order."""
    return sorted((str(p) for p in Path("/dev").glob("video[0-9]*")), key=natural_key)


def open_camera(number: int) -> CameraSource:
    """Open ``/dev/video<number>``.

    Raises:
        SourceError: no such device, or it is busy or no camera.
    """
    device = f"/dev/video{number}"
    cameras = list_cameras()
    if device not in cameras:
        exist = "these exist: " + ", ".join(cameras) if cameras else "this machine has none"
        raise SourceError(f"no camera {number}: {exist}")
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise SourceError(
            f"camera {number} ({device}) does not open: it is in use, not a capture device, or "
            "closed to this user; see its group with: ls -l " + device
        )
    # One buffered picture: a slow model should see the newest, not the oldest.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return CameraSource(capture, f"camera {number}")


class CameraSource:
    """Frames of an open ``cv2.VideoCapture`` until it is closed; times count from the first.

    Raises:
        SourceError: the device delivers nothing, or stops to.
    """

    def __init__(self, capture: cv2.VideoCapture, name: str) -> None:
        self._capture = capture
        self._name = name
        self.corrupt = 0
        self._first = self._read(0)

    def _read(self, index: int) -> Image:
        good, image = self._capture.read()
        if not good:
            self._capture.release()
            when = f"stopped after frame {index}" if index else "delivers no frame"
            raise SourceError(f"{self._name} {when}; is it unplugged or used by another program?")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    @property
    def name(self) -> str:
        """``camera <number>``."""
        return self._name

    @property
    def fps(self) -> float:
        """Rate that the driver reports; 30 where it reports none."""
        return self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS

    @property
    def frame_count(self) -> int | None:
        """None: a camera has no end."""
        return None

    @property
    def size(self) -> Size:
        """(height, width) of the first frame."""
        return self._first.shape[0], self._first.shape[1]

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames for ever."""
        start = time.monotonic()
        yield Frame(self._first, 0, 0.0)
        index = 1
        while True:
            image = self._read(index)
            yield Frame(image, index, time.monotonic() - start)
            index += 1

    def close(self) -> None:
        """Release the device."""
        self._capture.release()

    def __enter__(self) -> CameraSource:
        """Return the source itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the device."""
        self.close()

"""Cameras, through OpenCV and V4L2."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from streamseg.errors import SourceError
from streamseg.runtime.sources.listing import natural_key
from streamseg.runtime.sources.options import SourceAddress
from streamseg.runtime.sources.reader import Picture

DEFAULT_FPS = 30.0


def list_cameras() -> list[str]:
    """Device files of the machine's V4L2 devices, in order."""
    return sorted((str(p) for p in Path("/dev").glob("video[0-9]*")), key=natural_key)


def open_camera(address: SourceAddress) -> CameraReader:
    """Open ``/dev/video<number>``.

    Raises:
        SourceError: no such device, or it is busy or no camera.
    """
    number = int(address.target)
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
    if address.options.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, address.options.fps)
    return CameraReader(capture, address.name)


class CameraReader:
    """Pictures of an open ``cv2.VideoCapture``, with the times that the driver gives them."""

    live = True
    corrupt = 0
    frame_count = None
    detail = "V4L2"

    def __init__(self, capture: cv2.VideoCapture, name: str) -> None:
        self._capture, self._name = capture, name

    @property
    def fps(self) -> float:
        """Rate that the driver reports; 30 where it reports none."""
        return self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS

    def read(self) -> Picture:
        """Wait for the next picture.

        Raises:
            SourceError: the device delivers nothing.
        """
        good, image = self._capture.read()
        if not good:
            raise SourceError(
                f"{self._name} delivers no frame; is it unplugged or used by another program?"
            )
        received = time.monotonic()
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        return Picture(
            lambda: np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8),
            (image.shape[0], image.shape[1]),
            seconds if seconds > 0 else None,
            received,
        )

    def close(self) -> None:
        """Release the device."""
        self._capture.release()

"""A window on the desktop, and the output that goes nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from streamseg.errors import SinkError
from streamseg.runtime.sinks.sink import SegmentedFrame

ESCAPE = 27
# Toolkits want all calls from one thread, also where several streams have a window each.
_GUI = ThreadPoolExecutor(1, thread_name_prefix="window")
REPLACE = "pip uninstall opencv-python-headless, then pip install opencv-python"


def require_windows() -> None:
    """Check that this OpenCV can open windows and that there is a display.

    Raises:
        SinkError: it cannot; the message names the package.
    """
    match = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if match is None or match[1] == "NONE":
        raise SinkError(f"the installed OpenCV has no windows. Run: {REPLACE}")
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # Toolkits end the whole process where there is none.
        raise SinkError("no display to open a window on: DISPLAY and WAYLAND_DISPLAY are not set")


class WindowSink:
    """Shows the pictures; Escape, q or closing the window ends the run.

    Args:
        title: of the window.
        on_close: called once when the user wants to end.

    Raises:
        SinkError: this OpenCV has no windows, or there is no display.
    """

    needs_picture = True
    needs_confidence = False

    def __init__(self, title: str, on_close: Callable[[], None]) -> None:
        require_windows()
        self._title, self._on_close = title, on_close
        self._frames = 0
        self._closed = False

    @property
    def path(self) -> Path:
        """Nothing is written."""
        return Path(os.devnull)

    def write(self, frame: SegmentedFrame) -> None:
        """Show one picture. Raises SinkError."""
        if not self._closed:
            _GUI.submit(self._show, frame).result()

    def _show(self, frame: SegmentedFrame) -> None:
        try:
            if self._frames == 0:
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                cv2.resizeWindow(self._title, frame.picture.shape[1], frame.picture.shape[0])
            cv2.imshow(self._title, cv2.cvtColor(frame.picture, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xFF
            shut = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise SinkError(f"cannot show a window: {error.err or error}") from None
        self._frames += 1
        if shut or key in (ESCAPE, ord("q")):
            self._closed = True
            self._on_close()

    def finish(self) -> str:
        """Close the window."""
        self.discard()
        return f"window: {self._frames} frames"

    def discard(self) -> None:
        """Close the window."""
        if self._frames and not self._closed:
            _GUI.submit(cv2.destroyWindow, self._title).result()
        self._closed = True


class NullSink:
    """Takes frames and writes nothing: for measuring, or for the policy's events alone."""

    needs_picture = False
    needs_confidence = False

    def __init__(self) -> None:
        self._frames = 0

    @property
    def path(self) -> Path:
        """Nothing is written."""
        return Path(os.devnull)

    def write(self, frame: SegmentedFrame) -> None:  # noqa: ARG002
        """Count one frame."""
        self._frames += 1

    def finish(self) -> str:
        """Report how many there were."""
        return f"{self._frames} frames, not written"

    def discard(self) -> None:
        """Nothing was written."""

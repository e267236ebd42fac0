"""GStreamer pipelines, through PyGObject's appsink."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from streamseg.errors import SourceError
from streamseg.redaction import redact
from streamseg.runtime.sources.options import SourceAddress
from streamseg.runtime.sources.reader import Picture, UnusableSource
from streamseg.runtime.video.resize import Image

DEFAULT_FPS = 25.0
SINK = "streamseg_frames"
TAIL = f" ! videoconvert ! video/x-raw,format=RGB ! appsink name={SINK} sync=false max-buffers=4"
# Where Debian and Ubuntu put PyGObject; an environment of the same Python can use it from there.
SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")
INSTALL = (
    "apt install python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good"
)
POLL = 0.1  # seconds between looks at the pipeline's messages


def load_gstreamer() -> Any:
    """The module ``Gst``, initialised.

    Raises:
        SourceError: PyGObject or GStreamer is not installed for this Python.
    """
    gi = _load_gi()
    try:
        gi.require_version("Gst", "1.0")
        gst = importlib.import_module("gi.repository.Gst")
    except (ValueError, ImportError) as error:
        raise UnusableSource(f"gst: sources need GStreamer ({error}); run: {INSTALL}") from None
    if not gst.is_initialized():
        gst.init(None)
    return gst


def _load_gi() -> ModuleType:
    if importlib.util.find_spec("gi") is not None:
        return importlib.import_module("gi")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    version = ".".join(map(str, sys.version_info[:2]))
    if not (SYSTEM_PACKAGES / "gi" / f"_gi{suffix}").exists():
        raise UnusableSource(
            f"gst: sources need PyGObject for Python {version}; run: {INSTALL}, and use the "
            "system's Python: /usr/bin/python3 -m venv --system-site-packages"
        )
    # Only for this import: what else lies there must not become importable.
    sys.path.append(str(SYSTEM_PACKAGES))
    try:
        return importlib.import_module("gi")
    finally:
        sys.path.remove(str(SYSTEM_PACKAGES))


class GStreamerReader:
    """Pictures of a pipeline such as ``videotestsrc ! video/x-raw,width=64``.

    The pipeline ends in raw video of any format in ordinary memory; what turns it into RGB and
    takes it out is appended. It is live when GStreamer says so.

    Raises:
        SourceError: no GStreamer, no such element, or the pipeline fails or falls silent.
    """

    frame_count = None

    def __init__(self, address: SourceAddress) -> None:
        self._name, self._timeout = address.name, address.options.timeout
        self.corrupt = 0
        if address.options.start:
            raise UnusableSource(
                f"{self._name}: --start is not for pipelines; seek in the pipeline"
            )
        self._gst = gst = load_gstreamer()
        glib = importlib.import_module("gi.repository.GLib")
        try:
            self._pipeline = gst.parse_launch(address.target + TAIL)
        except glib.Error as error:
            raise UnusableSource(f"{self._name}: {redact(error.message)}") from None
        self._sink = self._pipeline.get_by_name(SINK)
        try:
            state = self._pipeline.set_state(gst.State.PAUSED)
            self.live = state == gst.StateChangeReturn.NO_PREROLL
            self._pipeline.set_state(gst.State.PLAYING)
            self._held = self._pull()
            if self._held is None:
                raise SourceError(f"{self._name} ended before its first frame")
        except BaseException:
            self.close()
            raise
        self.detail = "GStreamer " + ".".join(str(part) for part in gst.version()[:3])
        known, numerator, denominator = self._structure(self._held).get_fraction("framerate")
        self.fps = numerator / denominator if known and numerator else DEFAULT_FPS

    def read(self) -> Picture | None:
        """Wait for the next undamaged picture."""
        while True:
            sample, self._held = self._held or self._pull(), None
            if sample is None:
                return None
            received = time.monotonic()
            if not sample.get_buffer().has_flags(self._gst.BufferFlags.CORRUPTED):
                return self._picture(sample, received)
            self.corrupt += 1

    def _pull(self) -> Any:
        """The next sample; None at the end of the stream."""
        gst, begin = self._gst, time.monotonic()
        while time.monotonic() - begin < self._timeout:
            sample = self._sink.emit("try-pull-sample", int(POLL * gst.SECOND))
            if sample is not None:
                return sample
            message = self._pipeline.get_bus().pop_filtered(gst.MessageType.ERROR)
            if message is not None:
                error, detail = message.parse_error()
                cause = (detail or "").strip().rpartition("\n")[2]
                raise SourceError(redact(f"{self._name}: {error.message} ({cause})"))
            if self._sink.get_property("eos"):
                return None
        raise SourceError(f"{self._name}: no frame for {self._timeout:g} s")

    @staticmethod
    def _structure(sample: Any) -> Any:
        return sample.get_caps().get_structure(0)

    def _picture(self, sample: Any, received: float) -> Picture:
        structure, buffer = self._structure(sample), sample.get_buffer()
        height, width = structure.get_int("height")[1], structure.get_int("width")[1]
        known = buffer.pts != self._gst.CLOCK_TIME_NONE
        seconds = buffer.pts / self._gst.SECOND if known else None
        return Picture(
            lambda: self._load(buffer, height, width), (height, width), seconds, received
        )

    def _load(self, buffer: Any, height: int, width: int) -> Image:
        good, mapped = buffer.map(self._gst.MapFlags.READ)
        if not good:
            raise SourceError(f"{self._name}: a frame is not in memory that can be read")
        try:
            # GStreamer's rows of RGB begin at multiples of four bytes.
            rows = np.frombuffer(mapped.data, np.uint8).reshape(height, -1)
            image: Image = rows[:, : 3 * width].reshape(height, width, 3).copy()
            return image
        finally:
            buffer.unmap(mapped)

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.set_state(self._gst.State.NULL)

"""From what the user typed to a source."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from streamseg.errors import SourceError
from streamseg.runtime.session.events import EventHandler
from streamseg.runtime.sources.camera import open_camera
from streamseg.runtime.sources.ffmpeg import FFmpegReader
from streamseg.runtime.sources.folder import FolderReader
from streamseg.runtime.sources.frame import Source
from streamseg.runtime.sources.listing import is_image_name
from streamseg.runtime.sources.options import SourceAddress, SourceOptions, is_there, parse_source
from streamseg.runtime.sources.reader import Reader, UnusableSource
from streamseg.runtime.sources.streaming import Backoff, StreamingSource

LIVE_SCHEMES = ("camera", "gst", "http", "https", "rtsp", "udp")

logger = logging.getLogger(__name__)


def open_source(
    uri: str,
    options: SourceOptions | None = None,
    *,
    on_event: EventHandler | None = None,
    stop: threading.Event | None = None,
) -> Source:
    """Open a file, a folder of images, a camera, a network stream, a pipeline or a scene.

    Args:
        uri: ``clip.mp4``, ``images/``, ``0``, ``rtsp://...``, ``http(s)://...``, ``udp://...``,
            ``gst:...``, ``synthetic:...``; ``#option=value&...`` at its end changes the options.
            A file of a camera's name is ``./0``.
        options: how to read it.
        on_event: gets events ``lost`` and ``back``; without it they are logged.
        stop: set it to give up waiting for a source that is missing (``await_source``).

    Raises:
        SourceError: nothing there, not readable as such, or no frame in it.
    """
    address = parse_source(uri, options)
    settings = address.options
    backoff = Backoff(settings.backoff)
    while True:
        try:
            return StreamingSource(
                lambda: open_reader(address), address.name, settings, on_event=on_event
            )
        except UnusableSource:
            raise
        except SourceError as error:
            if not settings.await_source or address.scheme not in LIVE_SCHEMES:
                raise
            pause = backoff.pause()
            logger.warning("%s; trying again in %.1f s", error, pause)
            if (stop or threading.Event()).wait(pause):
                raise


def open_reader(address: SourceAddress) -> Reader:
    """Open what an address names, once.

    Raises:
        SourceError: see ``open_source``.
    """
    options = address.options
    if address.scheme == "camera":
        if options.start:
            raise UnusableSource(f"{address.name} is live: it has no start to count seconds from")
        return open_camera(address)
    if address.scheme == "synthetic":
        # Imported on first use: the scene generator is large.
        from streamseg.runtime.sources.synthetic import SceneReader

        return SceneReader(address)
    if address.scheme == "gst":
        # Imported on first use: it needs a system package.
        from streamseg.runtime.sources.gstreamer import GStreamerReader

        return GStreamerReader(address)
    if address.scheme == "file" and is_there(address.target):
        path = Path(address.target)
        if path.is_dir() or (path.is_file() and is_image_name(path)):
            return FolderReader(address)
    return FFmpegReader(address)

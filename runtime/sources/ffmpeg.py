"""Video files and network streams, through PyAV."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.stream import VideoStream

from streamseg.errors import SourceError
from streamseg.runtime.sources.h264 import FrameNumbers
from streamseg.runtime.sources.hardware import find_accelerator
from streamseg.runtime.sources.options import SourceAddress, is_there
from streamseg.runtime.sources.reader import Picture, UnusableSource
from streamseg.runtime.video.resize import Image

DEFAULT_FPS = 25.0
LOW_DELAY = 1 << 19  # AV_CODEC_FLAG_LOW_DELAY
# FFmpeg renders plain text and old text art as video; nobody means that.
TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf"})
# These containers carry no times; FFmpeg counts frames at 25 a second instead.
TIMELESS_FORMATS = frozenset({"mpjpeg", "mjpeg"})
NOT_A_VIDEO = "is not a video, or is truncated; expected a file that FFmpeg can read, such as mp4"
HEALING = 10.0  # seconds without a key frame after which damage is taken to have healed

logger = logging.getLogger(__name__)


class FFmpegReader:
    """Pictures of a file or network stream, turned upright as its metadata says.

    Packets that do not decode and pictures that the decoder marks as damaged are left out, and
    so are those after them up to the next key frame, which are predicted from them; all are
    counted in ``corrupt``.

    Raises:
        SourceError: no such file, not a video, no answer in time, or it breaks off.
    """

    def __init__(self, address: SourceAddress) -> None:
        self._name, self._options = address.name, address.options
        self.corrupt = 0
        self._ready: deque[Picture] = deque()
        self._damaged_at: float | None = None
        self._position = 0.0
        self._marked: deque[int | None] = deque(maxlen=4)
        self._after_mark = False
        network = address.scheme != "file"
        if not network and not is_there(address.target):
            raise SourceError(f"no such video: {self._name}")
        self._numbers: FrameNumbers | None = None
        self._container, accelerator = self._connect(address, network=network)
        try:
            self._stream = self._find_stream()
            self.live = network and self._is_live(address)
            self._configure(accelerator)
            self._seek(address.options.start)
        except BaseException:
            self._container.close()
            raise
        self._timeless = bool(set(self._container.format.name.split(",")) & TIMELESS_FORMATS)
        self._packets = self._container.demux()

    def _connect(
        self, address: SourceAddress, *, network: bool
    ) -> tuple[InputContainer, HWAccel | None]:
        """Open with the device that decodes, or without where it fails."""
        accelerator, self.detail = find_accelerator(self._options.decode)
        try:
            return self._open(address, accelerator, network=network), accelerator
        except SourceError:
            if accelerator is None:
                raise
        container = self._open(address, None, network=network)
        self.detail = f"software decoding, {self.detail} fails"
        logger.warning("%s: %s", self._name, self.detail)
        return container, None

    def _configure(self, accelerator: HWAccel | None) -> None:
        """Set the decoder up before its first packet opens it."""
        context = self._stream.codec_context
        # Threads over frames delay each by the number of threads; in a transport stream that hides
        # which frame a marked packet belongs to.
        at_once = self.live or self._container.format.name == "mpegts"
        context.thread_type = "SLICE" if at_once else "AUTO"
        if self.live:
            context.flags |= LOW_DELAY
        if self._options.decode_threads is not None:
            context.thread_count = self._options.decode_threads
        if at_once and context.name == "h264":
            self._numbers = FrameNumbers(context.extradata or b"")
        if context.name == "mjpeg":
            # Every picture stands alone, and damage is otherwise filled with grey unmarked.
            context.options = {"err_detect": "explode"}
        if accelerator is not None and not context.is_hwaccel:
            self.detail = f"software decoding, {self.detail} does not take {context.name}"
            logger.warning("%s: %s", self._name, self.detail)
        self.detail = f"{context.name}, {self.detail}"

    def _open(
        self, address: SourceAddress, accelerator: HWAccel | None, *, network: bool
    ) -> InputContainer:
        options = _demuxer_options(address) if network else {}
        url = address.target if network else f"file:{address.target}"
        timeout = self._options.timeout if network else None
        begin = time.monotonic()
        try:
            return av.open(url, options=options, timeout=timeout, hwaccel=accelerator)
        except av.error.FFmpegError as error:
            if network:
                raise SourceError(
                    f"{self._name} does not open: {self._reason(error, begin)}"
                ) from None
            detail = "" if isinstance(error, av.error.InvalidDataError) else f" ({error.strerror})"
            raise SourceError(f"{self._name} {NOT_A_VIDEO}{detail}") from None

    def _find_stream(self) -> VideoStream:
        if set(self._container.format.name.split(",")) & TEXT_FORMATS:
            raise SourceError(f"{self._name} {NOT_A_VIDEO}")
        if not self._container.streams.video:
            raise SourceError(f"{self._name} holds no video stream; expected a video file")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            raise SourceError(f"{self._name}: no decoder for its video in the installed PyAV")
        return stream

    def _is_live(self, address: SourceAddress) -> bool:
        if address.scheme in ("rtsp", "udp"):
            return True
        live = self._options.live
        return self._container.duration is None if live is None else live

    def _seek(self, start: float) -> None:
        self._start = 0.0
        if not start:
            return
        if self.live:
            raise UnusableSource(f"{self._name} is live: it has no start to count seconds from")
        begin = (self._container.start_time or 0) / av.time_base
        self._start = begin + start
        try:
            self._container.seek(int(self._start * av.time_base))
        except av.error.FFmpegError as error:
            raise SourceError(f"{self._name} cannot start there: {error.strerror}") from None

    @property
    def fps(self) -> float:
        """Average rate of the stream; 25 where it gives none."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else DEFAULT_FPS

    @property
    def frame_count(self) -> int | None:
        """Frames that the container claims; None where it does not say."""
        return None if self.live or self._options.start else self._stream.frames or None

    def read(self) -> Picture | None:
        """Next picture that decodes without damage."""
        begin = time.monotonic()
        while not self._ready:
            packet = self._next_packet()
            if packet is None:
                return None
            received = time.monotonic()
            if packet.stream is self._stream:
                self._ready.extend(self._decode(packet, received))
            if self.live and not self._ready and received - begin > self._options.timeout:
                raise SourceError(f"no frame that decodes for {self._options.timeout:g} s")
        return self._ready.popleft()

    def _next_packet(self) -> av.Packet[Any] | None:
        begin = time.monotonic()
        try:
            packet = next(self._packets, None)
        except av.error.FFmpegError as error:
            if self.live:
                raise SourceError(f"{self._name} broke off: {self._reason(error, begin)}") from None
            raise SourceError(
                f"{self._name} breaks off after {self._position:.2f} s: {error.strerror}"
            ) from None
        if packet is not None and packet.pts is not None and packet.stream is self._stream:
            self._position = float(packet.pts * packet.time_base)
        return packet

    def _decode(self, packet: av.Packet[Any], received: float) -> Iterator[Picture]:
        if self._numbers is not None and self._numbers.misses(bytes(packet)):
            self._damaged_at = self._position
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.corrupt += 1
            self._damaged_at = self._position
            return
        if packet.is_corrupt or self._after_mark:
            # A mark tells of something lost in this packet or between it and the next.
            self._damaged_at = self._position
            self._marked.append(packet.pts)
        self._after_mark = packet.is_corrupt
        for frame in frames:
            if self._is_damaged(frame):
                self.corrupt += 1
            elif frame.time is None or frame.time >= self._start - 1e-6:
                yield self._picture(frame, received)

    def _is_damaged(self, frame: av.VideoFrame) -> bool:
        """Damaged itself, or possibly predicted from what is."""
        if frame.is_corrupt:
            self._damaged_at = self._position
            return True
        if frame.pts in self._marked:
            self._marked.remove(frame.pts)
            return True
        if self._damaged_at is None:
            return False
        if frame.key_frame or abs(self._position - self._damaged_at) > HEALING:
            self._damaged_at = None
            return False
        return True

    def _picture(self, frame: av.VideoFrame, received: float) -> Picture:
        turned = round(frame.rotation / 90) % 2
        size = (frame.width, frame.height) if turned else (frame.height, frame.width)
        seconds = None if self._timeless else frame.time
        return Picture(lambda: upright_image(frame), size, seconds, received)

    def _reason(self, error: av.error.FFmpegError, begin: float) -> str:
        # Some demuxers tell of an interrupted read as of invalid data.
        waited = time.monotonic() - begin >= self._options.timeout
        if waited or isinstance(error, av.error.ExitError):
            return f"no data for {self._options.timeout:g} s"
        return str(error.strerror)

    def close(self) -> None:
        """Close the file or connection."""
        self._ready.clear()
        self._container.close()


def _demuxer_options(address: SourceAddress) -> dict[str, str]:
    # A second of analysis, where FFmpeg takes five: what it needs comes with the first key frame.
    options = {"analyzeduration": "1000000"}
    if address.scheme == "rtsp":
        options |= {
            "rtsp_transport": address.options.transport,
            "allowed_media_types": "video",
            "max_delay": "500000",
        }
    return options


def upright_image(frame: av.VideoFrame) -> Image:
    """(height, width, 3) uint8 RGB, with the rotation of the file's display matrix applied."""
    image: Image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    quarter_turns = round(frame.rotation / 90) % 4
    if quarter_turns:
        image = np.ascontiguousarray(np.rot90(image, quarter_turns))
    return image

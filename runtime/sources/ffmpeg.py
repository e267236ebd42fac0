"""Video files and network streams, through PyAV."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.stream import VideoStream

from streamseg.errors import SourceError
from streamseg.runtime.sources.deinterlacing import Deinterlacer
from streamseg.runtime.sources.h264 import FrameNumbers
from streamseg.runtime.sources.hardware import find_accelerator
from streamseg.runtime.sources.options import SourceAddress, is_there
from streamseg.runtime.sources.reader import Picture, UnusableSource
from streamseg.runtime.sources.redirects import follow_redirects
from streamseg.runtime.sources.upright import (
    UPRIGHT,
    Orientation,
    read_orientation,
    square_pixels,
    square_size,
    usable_ratio,
)
from streamseg.runtime.video.resize import Image

DEFAULT_FPS = 25.0
LOW_DELAY = 1 << 19  # AV_CODEC_FLAG_LOW_DELAY
# FFmpeg renders plain text and old text art as video; which is never intended.
TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf"})
# These containers carry no times; FFmpeg counts frames at 25 a second instead.
TIMELESS_FORMATS = frozenset({"mpjpeg", "mjpeg"})
# PyAV 19 replaces what is not UTF-8 in a file's metadata; older releases raise unless asked to.
METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
NOT_A_VIDEO = "is not a video, or is truncated; expected a file that FFmpeg can read, such as mp4"
# Seconds before a start at which a key frame is looked for, in turn.
SEEK_BACK = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
HEALING = 10.0  # seconds without a key frame after which damage is taken to have healed

logger = logging.getLogger(__name__)


class FFmpegReader:
    """Pictures of a file or network stream, upright, deinterlaced and with square pixels.

    Packets that do not decode and pictures that the decoder marks as damaged are left out, and
    so are those after them up to the next key frame, which are predicted from them; all are
    counted in ``corrupt``.

    Raises:
        SourceError: no such file, not a video, no answer in time, or it fails midway.
    """

    def __init__(self, address: SourceAddress) -> None:
        self._name, self._options = address.name, address.options
        self.corrupt = 0
        self._ready: deque[Picture] = deque()
        self._damaged_at: float | None = None
        self._position = 0.0
        self._marked: deque[int | None] = deque(maxlen=4)
        self._after_mark = False
        self._deinterlacer: Deinterlacer | None = None
        self._warned = False
        network = address.scheme != "file"
        if not network and not is_there(address.target):
            raise SourceError(f"no such video: {self._name}")
        self._numbers: FrameNumbers | None = None
        self._container, accelerator = self._connect(address, network=network)
        try:
            self._stream = self._find_stream()
            self.live = network and self._is_live(address)
            self._configure(accelerator)
            self._ratio = _PixelRatio(self._stream)
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
            # Every picture is independent, and damage is otherwise filled with grey unmarked.
            context.options = {"err_detect": "explode"}
        if accelerator is not None and not context.is_hwaccel:
            self.detail = f"software decoding, {self.detail} does not take {context.name}"
            logger.warning("%s: %s", self._name, self.detail)
        self.detail = f"{context.name}, {self.detail}"

    def _open(
        self, address: SourceAddress, accelerator: HWAccel | None, *, network: bool
    ) -> InputContainer:
        url = address.target if network else f"file:{address.target}"
        begin = time.monotonic()
        try:
            return self._open_url(url, address, accelerator, network=network)
        except av.error.FFmpegError as error:
            if (target := self._redirected(address, begin)) is not None:
                return self._open(replace(address, target=target), accelerator, network=network)
            if network:
                raise SourceError(
                    f"{self._name} does not open: {self._reason(error, begin)}"
                ) from None
            detail = "" if isinstance(error, av.error.InvalidDataError) else f" ({error.strerror})"
            raise SourceError(f"{self._name} {NOT_A_VIDEO}{detail}") from None

    def _open_url(
        self, url: str, address: SourceAddress, accelerator: HWAccel | None, *, network: bool
    ) -> InputContainer:
        container: InputContainer = av.open(
            url,
            options=_demuxer_options(address) if network else {},
            timeout=self._options.timeout if network else None,
            hwaccel=accelerator,
            **METADATA,
        )
        return container

    def _redirected(self, address: SourceAddress, begin: float) -> str | None:
        """Where an HTTP address that did not open redirects to, if it does."""
        remaining = self._options.timeout - (time.monotonic() - begin)
        if address.scheme not in ("http", "https") or remaining <= 0:
            return None
        try:
            target = follow_redirects(
                address.target, timeout=remaining, private=self._options.private_redirects
            )
        except UnusableSource:
            raise
        except SourceError:  # what FFmpeg said is the reason
            return None
        return None if target == address.target else target

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
            self._seek_key_frame(begin)
        except av.error.FFmpegError as error:
            raise SourceError(f"{self._name} cannot start there: {error.strerror}") from None

    def _seek_key_frame(self, begin: float) -> None:
        """Move to a key frame at or before the start.

        Streams without an index, such as MPEG-TS, are searched by byte position, and the search
        may end behind the key frame that the start needs.
        """
        # A search for the very beginning may end behind it; one for a time before it does not.
        for back in (*SEEK_BACK, self._start - begin + 10.0):
            place = int((self._start - back) * av.time_base)
            self._container.seek(place)
            found = self._next_key_frame()
            if found is not None and found <= self._start + 1e-6:
                break
        self._container.seek(place)

    def _next_key_frame(self) -> float | None:
        """Time of the next key frame of the stream, seconds."""
        for packet in self._container.demux(self._stream):
            if packet.is_keyframe and packet.pts is not None:
                return float(packet.pts * packet.time_base)
        return None

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
                return self._last_picture()
            received = time.monotonic()
            if packet.stream is self._stream:
                self._ready.extend(self._decode(packet, received))
            if self.live and not self._ready and received - begin > self._options.timeout:
                raise SourceError(f"no frame that decodes for {self._options.timeout:g} s")
        return self._ready.popleft()

    def _last_picture(self) -> Picture | None:
        if self._deinterlacer is None:
            return None
        received = time.monotonic()
        self._ready.extend(self._picture(f, received) for f in self._deinterlacer.flush())
        return self._ready.popleft() if self._ready else None

    def _next_packet(self) -> av.Packet[Any] | None:
        begin = time.monotonic()
        try:
            packet = next(self._packets, None)
        except av.error.FFmpegError as error:
            if self.live:
                raise SourceError(
                    f"{self._name} was interrupted: {self._reason(error, begin)}"
                ) from None
            raise SourceError(
                f"{self._name} is cut off after {self._position:.2f} s: {error.strerror}"
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
        self._ratio.note(packet)
        for frame in frames:
            if self._is_damaged(frame):
                self.corrupt += 1
            elif frame.time is None or frame.time >= self._start - 1e-6:
                yield from (self._picture(whole, received) for whole in self._whole(frame))

    def _whole(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The frame itself, or deinterlaced once the stream is marked as interlaced."""
        if self._deinterlacer is None:
            if not frame.interlaced_frame or not self._options.deinterlace:
                yield frame
                return
            self._deinterlacer = Deinterlacer()
            self.detail = f"{self.detail}, deinterlaced"
        yield from self._deinterlacer.push(frame)

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
        orientation, ratio = self._orientation(frame), self._ratio.of(frame)
        size = orientation.size(square_size((frame.height, frame.width), ratio))
        seconds = None if self._timeless else frame.time
        return Picture(lambda: shown_image(frame, orientation, ratio), size, seconds, received)

    def _orientation(self, frame: av.VideoFrame) -> Orientation:
        found = read_orientation(frame)
        if found is None and not self._warned:
            self._warned = True
            logger.warning("%s: its display matrix is damaged or not known; ignored", self._name)
        return found or UPRIGHT

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
    if address.scheme in ("http", "https"):
        options["max_redirects"] = "0"  # see redirects.py
    if address.scheme == "rtsp":
        options |= {
            "rtsp_transport": address.options.transport,
            "allowed_media_types": "video",
            "max_delay": "500000",
        }
    return options


class _PixelRatio:
    """Width over height of a stream's pixels, also where it changes in mid-stream.

    PyAV gives it for the stream and for the decoder, not for a frame. What the container says
    holds until the decoder's changes; the packet that changes it is the first of the new ones.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._context = stream.codec_context
        self._stated = usable_ratio(stream.sample_aspect_ratio)
        self._first: Fraction | None = None
        self._now = self._before = self._stated or Fraction(1)
        self._changed_at: int | None = None

    def note(self, packet: av.Packet[Any]) -> None:
        """Look at the decoder's ratio after a packet."""
        ratio = usable_ratio(self._context.sample_aspect_ratio)
        if self._first is None:
            self._first = ratio
            self._now = self._before = self._stated or ratio or Fraction(1)
            return
        unchanged = ratio == self._first and self._changed_at is None
        if ratio is not None and ratio != self._now and not unchanged:
            self._before, self._now, self._changed_at = self._now, ratio, packet.pts

    def of(self, frame: av.VideoFrame) -> Fraction:
        """The ratio of this frame's pixels."""
        at = self._changed_at
        return self._before if at is not None and (frame.pts or 0) < at else self._now


def shown_image(frame: av.VideoFrame, orientation: Orientation, ratio: Fraction) -> Image:
    """(height, width, 3) uint8 RGB, as a player shows it."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return orientation.turn(square_pixels(image, ratio))

"""Video files, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np
from av.video.stream import VideoStream

from streamseg.errors import SourceError
from streamseg.runtime.resize import Image, Size
from streamseg.runtime.sources.frame import Frame

DEFAULT_FPS = 25.0
# FFmpeg renders plain text and old text art as video; nobody means that.
TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf"})
NOT_A_VIDEO = "is not a video, or is truncated; expected a file that FFmpeg can read, such as mp4"


class VideoSource:
    """Frames of a video file, turned upright as its metadata says.

    Packets that do not decode and frames that the decoder marks as damaged are left out and
    counted in ``corrupt``; a file whose container breaks off raises SourceError at that point.

    Raises:
        SourceError: no such file, not a video, or no frame in it.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.corrupt = 0
        if not self._path.exists():
            raise SourceError(f"no such video: {self._path}")
        try:
            self._container = av.open(str(self._path))
        except av.error.FFmpegError as error:
            detail = "" if isinstance(error, av.error.InvalidDataError) else f" ({error.strerror})"
            raise SourceError(f"{self._path} {NOT_A_VIDEO}{detail}") from None
        try:
            self._open_stream()
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self) -> None:
        if set(self._container.format.name.split(",")) & TEXT_FORMATS:
            raise SourceError(f"{self._path} {NOT_A_VIDEO}")
        if not self._container.streams.video:
            raise SourceError(f"{self._path} holds no video stream; expected a video file")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._decoded = self._decode()
        self._first = next(self._decoded, None)
        if self._first is None:
            damaged = f" ({self.corrupt} damaged packets)" if self.corrupt else ""
            raise SourceError(f"{self._path} holds no frame that decodes{damaged}")

    @property
    def name(self) -> str:
        """The path as given."""
        return str(self._path)

    @property
    def fps(self) -> float:
        """Average rate of the file; 25 where it gives none."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else DEFAULT_FPS

    @property
    def frame_count(self) -> int | None:
        """Frames that the container claims; None where it does not say."""
        return self._stream.frames or None

    @property
    def size(self) -> Size:
        """(height, width) of the first frame, upright."""
        assert self._first is not None
        return self._first.size

    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame that decodes."""
        assert self._first is not None
        yield self._first
        yield from self._decoded

    def _decode(self) -> Iterator[Frame]:
        index, timestamp = 0, 0.0
        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.corrupt += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.corrupt += 1
                    continue
                time = index / self.fps if frame.time is None else frame.time
                timestamp = time if index == 0 else max(timestamp, time)
                yield Frame(upright_image(frame), index, timestamp)
                index += 1

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        last = 0.0
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    last = float(packet.pts * packet.time_base)
                yield packet
        except av.error.FFmpegError as error:
            raise SourceError(
                f"{self._path} breaks off after {last:.2f} s: {error.strerror}"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> VideoSource:
        """Return the source itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


def upright_image(frame: av.VideoFrame) -> Image:
    """(height, width, 3) uint8 RGB, with the rotation of the file's display matrix applied."""
    image: Image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    quarter_turns = round(frame.rotation / 90) % 4
    if quarter_turns:
        image = np.ascontiguousarray(np.rot90(image, quarter_turns))
    return image

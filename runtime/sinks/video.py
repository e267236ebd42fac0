"""Overlay video: H.264 through PyAV."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import OutputContainer
from av.video.stream import VideoStream

from streamseg.errors import SinkError
from streamseg.runtime.resize import Size
from streamseg.runtime.sinks.sink import SegmentedFrame, reserve_draft, write_failure

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
TIME_BASE = Fraction(1, 90_000)
BT709 = 1  # matrix, primaries and transfer share the number in H.264
LIMITED_RANGE = 1


class VideoSink:
    """H.264 video that browsers play (yuv420p, BT.709, index first), at the source's times.

    Written beside the target under a hidden name and renamed when complete. H.264 in yuv420p has
    even sizes: an odd last row or column is cut off, and ``finish`` says so.

    Args:
        path: target; ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``. An older file is replaced.
        fps: nominal rate.

    Raises:
        SinkError: another suffix, or a place that cannot be written.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in FORMATS:
            raise SinkError(
                f"cannot write {self._path} as video; expected a name in " + " ".join(FORMATS)
            )
        self._rate = Fraction(fps).limit_denominator(1001)
        self._draft: Path | None = reserve_draft(self._path)
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._size: Size = (0, 0)
        self._frames = 0
        self._origin = 0.0
        self._last_pts = -1

    @property
    def path(self) -> Path:
        """The target."""
        return self._path

    def _open(self, size: Size) -> VideoStream:
        if min(size) < 2:
            raise SinkError(f"{self._path}: H.264 needs at least 2x2 pixels, frames are {size}")
        suffix = FORMATS[self._path.suffix.lower()]
        options = {} if suffix == "matroska" else {"movflags": "faststart"}
        self._container = av.open(str(self._draft), "w", format=suffix, options=options)
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.options = {"preset": "veryfast", "crf": "21"}
        stream.height, stream.width = size[0] - size[0] % 2, size[1] - size[1] % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        return stream

    def write(self, frame: SegmentedFrame) -> None:
        """Encode one frame; all must have the size of the first.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason.
        """
        height, width = frame.picture.shape[:2]
        try:
            if self._stream is None:
                self._size = (height, width)
                self._origin = frame.timestamp
                self._stream = self._open(self._size)
            elif (height, width) != self._size:
                raise SinkError(
                    f"{self._path}: frame {frame.index} is {height}x{width}, "
                    f"expected {self._size[0]}x{self._size[1]} as before"
                )
            self._encode(self._stream, frame)
        except av.error.FFmpegError as error:
            raise self._fail(error) from None

    def _encode(self, stream: VideoStream, frame: SegmentedFrame) -> None:
        assert self._container is not None
        even = frame.picture[: stream.height, : stream.width]
        picture = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        # Times of a source may repeat; those of a file must grow.
        due = round((frame.timestamp - self._origin) / TIME_BASE)
        picture.pts = self._last_pts = max(due, self._last_pts + 1)
        picture.time_base = TIME_BASE
        self._container.mux(stream.encode(picture))
        self._frames += 1

    def finish(self) -> str:
        """Flush, close and rename.

        Raises:
            SinkError: the file cannot be completed, for lack of space perhaps; none is left.
        """
        if self._draft is None:
            return ""
        if self._stream is None or self._container is None or self._frames == 0:
            self.discard()
            return f"{self._path}: no frames, not written"
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._draft.replace(self._path)
        except (av.error.FFmpegError, OSError) as error:
            raise self._fail(error) from None
        self._draft = None
        height, width = self._stream.height, self._stream.width
        cut = f", cut from {self._size[0]}x{self._size[1]}" if self._size != (height, width) else ""
        return f"{self._path}: {self._frames} frames, H.264 {height}x{width}{cut}"

    def _fail(self, error: av.error.FFmpegError | OSError) -> SinkError:
        failure = write_failure(self._path, error)
        self.discard()
        return failure

    def discard(self) -> None:
        """Remove the unfinished file."""
        if self._draft is None:
            return
        if self._container is not None:
            with contextlib.suppress(av.error.FFmpegError):
                self._container.close()
        self._draft.unlink(missing_ok=True)
        self._draft = None

"""One H.264 file that can be played up to its last frames at any moment, killed or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.video.stream import VideoStream

from streamseg.counting import count_of
from streamseg.errors import SinkError
from streamseg.runtime.sinks.sink import make_parent, write_failure
from streamseg.runtime.video.resize import Image, Size

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
# A fragment, or a cluster, for each frame; each goes to the file at once.
FRAGMENTS = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
CLUSTERS = {"cluster_time_limit": "1", "flush_packets": "1"}
TIME_BASE = Fraction(1, 90_000)
BT709 = 1  # matrix, primaries and transfer share the number in H.264
LIMITED_RANGE = 1
INDEX_LIMIT = 1 << 30  # bytes; a larger file keeps its fragments: rewriting it takes too long


def part_names(path: Path) -> Iterator[Path]:
    """``street.part.mp4``, ``street.part-2.mp4``, ... for ``street.mp4``."""
    yield path.with_name(f"{path.stem}.part{path.suffix}")
    number = 2
    while True:
        yield path.with_name(f"{path.stem}.part-{number}{path.suffix}")
        number += 1


def reserve_part(path: Path) -> Path:
    """Make an empty file to record into; what a killed run left is never touched.

    Raises:
        SinkError: ``path`` is a folder, or its folder cannot be made or written.
    """
    if path.is_dir():
        raise SinkError(f"cannot write {path}: it is a folder; give the name of a file")
    make_parent(path)
    for part in part_names(path):
        try:
            part.touch(exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise SinkError(f"cannot write {path}: {error.strerror}") from None
        return part
    raise AssertionError("part_names ends never")


class H264File:
    """Records pictures of one size into a part file, which becomes ``path`` when finished.

    Until then the part file is playable up to all but the last frame, whatever ends the process.
    An odd last row or column is cut off, as yuv420p has even sizes.

    Args:
        path: target; an older file is replaced at the end.
        part: file to record into, made by ``reserve_part``.
        fps: nominal rate.
        size: (height, width) of the pictures.
        origin: seconds at which the video begins.

    Raises:
        SinkError: pictures too small, or the file cannot be written.
    """

    def __init__(self, path: Path, part: Path, *, fps: float, size: Size, origin: float) -> None:
        if min(size) < 2:
            part.unlink(missing_ok=True)  # it is reserved, and empty
            raise SinkError(
                f"{path}: H.264 needs at least 2x2 pixels, frames are {size[0]}x{size[1]}; "
                "write to a folder instead"
            )
        self.path, self.part, self.size, self.frames = path, part, size, 0
        self._origin, self._last_pts = origin, -1
        self._whole, self._broken = 0, False  # bytes up to the last fragment; one was torn since
        form = FORMATS[path.suffix.lower()]
        self._fragmented = form != "matroska"
        options = FRAGMENTS if self._fragmented else CLUSTERS
        rate = Fraction(fps).limit_denominator(1001)
        try:
            self._container = av.open(str(part), "w", format=form, options=options)
        except (av.error.FFmpegError, OSError) as error:
            raise write_failure(path, error) from None
        self._stream: VideoStream = self._container.add_stream("libx264", rate=rate)
        # No frame waits for later ones in the encoder.
        self._stream.options = {"preset": "veryfast", "crf": "21", "tune": "zerolatency"}
        self._stream.height, self._stream.width = size[0] - size[0] % 2, size[1] - size[1] % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE

    def write(self, image: Image, timestamp: float) -> None:
        """Encode one (height, width, 3) uint8 RGB picture.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason.
        """
        even = image[: self._stream.height, : self._stream.width]
        picture = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        # Times of a source may repeat; those of a file must grow.
        due = round((timestamp - self._origin) / TIME_BASE)
        picture.pts = self._last_pts = max(due, self._last_pts + 1)
        picture.time_base = TIME_BASE
        try:
            self._container.mux(self._stream.encode(picture))
        except av.error.FFmpegError as error:
            self._broken = True
            raise write_failure(self.path, error) from None
        self._whole = self.part.stat().st_size
        self.frames += 1

    def finish(self) -> str:
        """Complete the file, index first, and report what it holds.

        Raises:
            SinkError: it cannot be completed, for lack of space perhaps; the part file stays.
        """
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            indexed = not self._fragmented or self._write_index()
            self.part.replace(self.path)
        except (av.error.FFmpegError, OSError) as error:
            raise write_failure(self.path, error) from None
        height, width = self._stream.height, self._stream.width
        cut = f", cut from {self.size[0]}x{self.size[1]}" if self.size != (height, width) else ""
        how = "" if indexed else ", in fragments"
        return f"{self.path}: {count_of(self.frames, 'frame')}, H.264 {height}x{width}{cut}{how}"

    def _write_index(self) -> bool:
        """Rewrite the fragments as one piece with an index; False where they stay."""
        if self.part.stat().st_size > INDEX_LIMIT:
            return False
        draft = self.part.with_name(f".{self.part.name}.{os.getpid()}")
        try:
            copy_packets(self.part, draft, FORMATS[self.path.suffix.lower()])
            draft.replace(self.part)
        except (av.error.FFmpegError, OSError):
            # No room for two copies: the fragments are as good.
            draft.unlink(missing_ok=True)
            return False
        return True

    def give_up(self) -> bool:
        """Close after a failure; True if the part file stays because it can be played."""
        with contextlib.suppress(av.error.FFmpegError):
            self._container.close()
        if self._broken:
            os.truncate(self.part, self._whole)
        if self.part.exists() and not is_playable(self.part):
            self.part.unlink()
        return self.part.exists()


def copy_packets(source: Path, target: Path, form: str) -> None:
    """Copy a video's packets into a new file whose index comes first."""
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", format=form, options={"movflags": "faststart"}) as new,
    ):
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                new.mux(packet)


def is_playable(path: Path) -> bool:
    """Whether the first frame of a video decodes."""
    try:
        with av.open(str(path)) as container:
            return next(container.decode(video=0), None) is not None
    except (av.error.FFmpegError, IndexError, OSError):
        return False

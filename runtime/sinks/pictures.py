"""Overlays as pictures: one file for a source of one picture, or a folder with one a frame."""

from __future__ import annotations

from pathlib import Path

import cv2

from streamseg.destinations import Destination
from streamseg.errors import SinkError
from streamseg.runtime.sinks.encoding import FORMATS
from streamseg.runtime.sinks.labels import PngFolder
from streamseg.runtime.sinks.sink import SegmentedFrame, Sink, reserve_draft, write_failure
from streamseg.runtime.sinks.video import VideoSink
from streamseg.runtime.sources import Source
from streamseg.runtime.video.resize import Image

PICTURES = (".png", ".jpg", ".jpeg")
OVERLAYS = Destination(file=True, folder=True, suffixes=(*FORMATS, *PICTURES))


def open_overlay(path: Path, source: Source, frames: int | None = None) -> Sink:
    """The sink for overlays that a path stands for.

    Args:
        path: a video (.mp4, .m4v, .mov, .mkv); a picture (.png, .jpg) where there is one frame;
            or a folder, which exists or has a name without suffix.
        source: of the frames.
        frames: how many will be segmented, if the caller says so.
    Raises:
        SinkError: another suffix, a picture for more than one frame, or a place that cannot be
            written.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return PictureFolderSink(path)
    if suffix in PICTURES:
        if 1 not in (source.frame_count, frames):
            raise _one_picture(path, source.name)
        return PictureSink(path, source.name)
    return VideoSink(OVERLAYS.read(path, SinkError), source.fps)


def _one_picture(path: Path, source: str) -> SinkError:
    return SinkError(
        f"cannot write {source} to {path}, which holds one picture: name a video such as "
        f"{path.with_suffix('.mp4').name}, a folder such as {path.stem}/, or add --frames 1"
    )


class PictureSink:
    """The overlay of one frame, whole or absent; an older file is replaced.

    Args:
        path: target, ``.png`` or ``.jpg``.
        source: name of the source, for messages.

    Raises:
        SinkError: a place that cannot be written.
    """

    needs_picture = True
    needs_confidence = False

    def __init__(self, path: str | Path, source: str = "this source") -> None:
        self._path, self._source = Path(path), source
        self._size = ""
        self._draft: Path | None = reserve_draft(self._path)

    @property
    def path(self) -> Path:
        """The target."""
        return self._path

    def write(self, frame: SegmentedFrame) -> None:
        """Write the picture.

        Raises:
            SinkError: it is the second one, or the file cannot be written.
        """
        if self._size or self._draft is None:
            raise _one_picture(self._path, self._source)
        height, width = frame.picture.shape[:2]
        try:
            self._draft.write_bytes(encode_picture_file(frame.picture, self._path))
        except OSError as error:
            raise write_failure(self._path, error) from None
        self._size = f"{height}x{width}"

    def finish(self) -> str:
        """Rename the draft. Raises SinkError."""
        if self._draft is None:
            return ""
        if not self._size:
            self.discard()
            return f"{self._path}: no frames, not written"
        try:
            self._draft.replace(self._path)
        except OSError as error:
            raise write_failure(self._path, error) from None
        self._draft = None
        return f"{self._path}: 1 frame, {self._size}"

    def discard(self) -> None:
        """Remove the draft; an older file stays."""
        if self._draft is not None:
            self._draft.unlink(missing_ok=True)
            self._draft = None


class PictureFolderSink:
    """Overlays as ``<index>.png`` in a folder; see ``PngFolder``.

    Raises:
        SinkError: the folder cannot be made or written.
    """

    needs_picture = True
    needs_confidence = False

    def __init__(self, path: str | Path) -> None:
        self._folder = PngFolder(path, "overlay")
        self.path = self._folder.path
        self.finish, self.discard = self._folder.finish, self._folder.discard

    def write(self, frame: SegmentedFrame) -> None:
        """Write one picture. Raises SinkError."""
        self._folder.write(_to_bgr(frame.picture), frame.index)


def encode_picture_file(picture: Image, path: Path) -> bytes:
    """The content of a file of this name.

    Args:
        picture: (height, width, 3) uint8 RGB.
        path: gives the suffix.
    Raises:
        SinkError: OpenCV cannot encode it, for its size perhaps.
    """
    try:
        done, content = cv2.imencode(path.suffix.lower(), _to_bgr(picture))
    except cv2.error as error:
        raise SinkError(f"cannot encode {path}: {error.err or error}") from None
    if not done:
        raise SinkError(f"OpenCV cannot encode {path}")
    return content.tobytes()


def _to_bgr(picture: Image) -> Image:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2BGR).astype("uint8", copy=False)

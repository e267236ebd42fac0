"""Overlay video: H.264 through PyAV."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from streamseg.counting import count_of
from streamseg.errors import SinkError
from streamseg.runtime.sinks.encoding import FORMATS, H264File, reserve_part
from streamseg.runtime.sinks.sink import SegmentedFrame

MOST_CHANGES = 8  # of size, within
CHANGE_FRAMES = 250


class VideoSink:
    """H.264 video that browsers play (yuv420p, BT.709, index first), at the source's times.

    Recorded as ``street.part.mp4`` beside ``street.mp4``, which can be played at any moment and
    outlives the process however that ends; renamed when complete. Where frames change size, the
    next file begins: ``street-2.mp4``; where they change it all the time, that is an error.

    Args:
        path: target; ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``. An older file is replaced.
        fps: nominal rate.

    Raises:
        SinkError: another suffix, or a place that cannot be written.
    """

    needs_picture = True
    needs_confidence = False

    def __init__(self, path: str | Path, fps: float) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in FORMATS:
            raise SinkError(
                f"cannot write {self._path} as video; expected a name in " + " ".join(FORMATS)
            )
        self._fps = fps
        self._reserved: Path | None = reserve_part(self._path)
        self._file: H264File | None = None
        self._done: list[str] = []
        self._written = 0
        self._changes: deque[int] = deque(maxlen=MOST_CHANGES)
        self._ended = False

    @property
    def path(self) -> Path:
        """The target; the first, where there are several."""
        return self._path

    def write(self, frame: SegmentedFrame) -> None:
        """Encode one frame.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason. What
                can be played of it stays, and the message names it.
        """
        size = (frame.picture.shape[0], frame.picture.shape[1])
        self._written += 1
        if self._file is not None and self._file.size != size:
            self._note_change()
            self._complete(self._file)
        try:
            if self._file is None:
                self._file = self._begin(size, frame.timestamp)
            self._file.write(frame.picture, frame.timestamp)
        except SinkError as error:
            raise self._fail(error) from None

    def _note_change(self) -> None:
        """Raise SinkError where the size changes too often for a file each."""
        self._changes.append(self._written)
        within = self._written - self._changes[0]
        if len(self._changes) == MOST_CHANGES and within < CHANGE_FRAMES:
            raise self._fail(
                SinkError(
                    f"cannot write {self._path}: frames changed their size {MOST_CHANGES} times "
                    f"within {within} frames, and each size needs a file of its own; use --labels "
                    "for such a source, or give it one size"
                )
            )

    def _begin(self, size: tuple[int, int], timestamp: float) -> H264File:
        number = len(self._done) + 1
        name = self._path.name if number == 1 else f"{self._path.stem}-{number}{self._path.suffix}"
        path = self._path.with_name(name)
        part, self._reserved = self._reserved or reserve_part(path), None
        return H264File(path, part, fps=self._fps, size=size, origin=timestamp)

    def _complete(self, file: H264File) -> None:
        try:
            self._done.append(file.finish())
        except SinkError as error:
            raise self._fail(error) from None
        self._file = None

    def finish(self) -> str:
        """Complete the file or files and report what they hold.

        Raises:
            SinkError: a file cannot be completed, for lack of space perhaps; what can be played
                of it stays, and the message names it.
        """
        if self._ended:
            return ""
        if self._file is not None:
            self._complete(self._file)
        self._ended = True
        if not self._done:
            self._remove_reserved()
            return f"{self._path}: no frames, not written"
        return "; ".join(self._done)

    def _fail(self, error: SinkError) -> SinkError:
        self._ended = True
        kept = list(self._done)
        if self._file is not None and self._file.give_up():
            kept.append(f"{self._file.part}: up to {count_of(self._file.frames, 'frame')}")
        self._remove_reserved()
        return SinkError(f"{error} (kept {'; '.join(kept)})") if kept else error

    def discard(self) -> None:
        """Close; a recording that can be played stays as it is, an empty one is removed."""
        if not self._ended:
            self._ended = True
            if self._file is not None:
                self._file.give_up()
            self._remove_reserved()

    def _remove_reserved(self) -> None:
        if self._reserved is not None:
            self._reserved.unlink(missing_ok=True)
            self._reserved = None

"""Label maps as PNG files, one a frame."""

from __future__ import annotations

from pathlib import Path

import cv2

from streamseg.errors import SinkError
from streamseg.runtime.sinks.sink import SegmentedFrame, write_failure


class LabelSink:
    """Writes ``<index>.png`` (six digits, 8-bit grey, class ids as in the manifest, 255 = none).

    Other files in an existing folder stay; files of the same name are replaced. Each file is
    whole or absent.

    Raises:
        SinkError: the folder cannot be made or written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._made = not self._path.exists()
        self._frames = 0
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._draft.touch()
            self._draft.unlink()
        except OSError as error:
            raise SinkError(f"cannot write into {self._path}: {error.strerror}") from None

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def _draft(self) -> Path:
        return self._path / ".labels.part"

    def write(self, frame: SegmentedFrame) -> None:
        """Write one label map.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason.
        """
        _, content = cv2.imencode(".png", frame.labels)
        target = self._path / f"{frame.index:06d}.png"
        try:
            self._draft.write_bytes(content.tobytes())
            self._draft.replace(target)
        except OSError as error:
            failure = write_failure(target, error)
            self._draft.unlink(missing_ok=True)
            raise failure from None
        self._frames += 1

    def finish(self) -> str:
        """Say how many were written."""
        return f"{self._path}: {self._frames} label maps"

    def discard(self) -> None:
        """Keep whole label maps; remove the folder if it was made here and is empty."""
        if self._made and self._path.is_dir() and not any(self._path.iterdir()):
            self._path.rmdir()

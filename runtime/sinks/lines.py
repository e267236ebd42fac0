"""JSON lines: areas of the classes, one line a frame."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamseg.counting import count_of
from streamseg.errors import SinkError
from streamseg.files import STDOUT, is_device
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.sinks.sink import SegmentedFrame, make_parent, write_failure
from streamseg.runtime.step_result import class_areas


class JsonLines:
    """A file that objects are appended to, one a line; each line is there once it was written.

    Lines that the file has already stay; one that a killed process left unfinished is ended. The
    path ``-`` is standard output.

    Raises:
        SinkError: the file cannot be opened or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._made = False
        if self.path == STDOUT:
            # A descriptor of its own: what else is printed is not buffered with it.
            self._file = open(os.dup(1), "ab", buffering=0)  # noqa: PTH123, SIM115
            return
        make_parent(self.path)
        self._made = not self.path.exists()
        try:
            if is_device(self.path):  # or a pipe, which has no end to look at
                self._file = self.path.open("ab", buffering=0)
                return
            self._file = self.path.open("ab+", buffering=0)
            if self._file.seek(0, 2) > 0:
                self._file.seek(-1, 2)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
        except OSError as error:
            raise SinkError(f"cannot write {self.path}: {error.strerror}") from None

    def write(self, content: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason.
        """
        line = json.dumps(content).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise write_failure(self.path, error) from None
        self.count += 1

    def close(self) -> None:
        """Close the file, and remove it if it was made here and nothing was written."""
        self._file.close()
        if self._made and self.count == 0:
            self.path.unlink(missing_ok=True)


def describe_areas(frame: SegmentedFrame, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """A frame's index, time and shares of its classes; see ``AreaSink``."""
    shares = class_areas(frame.labels, classes)
    areas = {name: round(share, 6) for name, share in shares.items()}
    return {"frame": frame.index, "time": round(frame.timestamp, 6), "areas": areas}


class AreaSink:
    """Share of the frame that each class covers: ``{"frame": 7, "time": 0.28, "areas": {...}}``.

    Classes that do not occur are left out; ``none`` stands for pixels without a class.

    Args:
        path: file to append to.
        classes: of the bundle.

    Raises:
        SinkError: the file cannot be opened or written.
    """

    needs_picture = False
    needs_confidence = False

    def __init__(self, path: str | Path, classes: Sequence[ClassInfo]) -> None:
        self._lines = JsonLines(path)
        self._classes = tuple(classes)

    @property
    def path(self) -> Path:
        """The file."""
        return self._lines.path

    def write(self, frame: SegmentedFrame) -> None:
        """Append one line. Raises SinkError."""
        self._lines.write(describe_areas(frame, self._classes))

    def finish(self) -> str:
        """Close the file and report how many lines were written."""
        self._lines.close()
        return f"{self.path}: {count_of(self._lines.count, 'line')}"

    def discard(self) -> None:
        """Close the file; lines that were written stay."""
        self._lines.close()

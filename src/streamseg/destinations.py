"""Where commands write: which paths an output accepts, checked before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import StreamsegError
from streamseg.files import STDOUT, check_place, is_device

PICTURE_SUFFIXES = (".png",)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Which paths an output accepts.

    Attributes:
        file: a file is written.
        folder: a folder is written, or files in it.
        suffixes: names that the file may end in; any where empty.
        stdout: ``-`` is standard output.
        appended: lines are appended, to a device or a pipe as well.
    """

    file: bool = False
    folder: bool = False
    suffixes: tuple[str, ...] = ()
    stdout: bool = False
    appended: bool = False

    def read(self, given: str | os.PathLike[str], failure: type[StreamsegError]) -> Path:
        """The path that a text stands for; the files there are not looked at.

        Raises:
            failure: the text is empty, names standard output or a folder where the output is none,
                or has a suffix that is not written.
        """
        text = os.fspath(given)
        path = Path(text)
        if not text:
            raise failure(f"an empty path was given, expected {self.expected}")
        if text == "-":
            if self.stdout:
                return STDOUT
            raise failure(
                f"'-' means standard output, which this option cannot write to; expected "
                f"{self.expected}, such as ./- for one with that name"
            )
        fits = path.suffix.lower() in self.suffixes
        if text.endswith("/") and (not self.folder or fits):
            raise failure(
                f"cannot write {text}: a '/' at the end names a folder, expected {self.expected}"
            )
        if self.suffixes and not fits and not self._may_be_folder(text):
            raise failure(f"cannot write {text}: expected {self.expected}")
        # './-' is a file, and the path without './' would be standard output.
        return path.absolute() if path == STDOUT else path

    def check(self, path: Path, failure: type[StreamsegError]) -> None:
        """Check that the output can be written at a path; the folder above a file is made.

        Raises:
            failure: it cannot.
        """
        if (path == STDOUT and self.stdout) or (self.appended and is_device(path)):
            return
        try:
            if self.folder and (path.is_dir() or not self.file or not path.suffix):
                check_folder(path, failure)
            else:
                check_place(path, failure)
        except OSError as error:  # such as a name that is too long
            raise failure(f"cannot write {path}: {error.strerror}") from None

    @property
    def expected(self) -> str:
        """What may be given, in words."""
        named = f"a file in {' '.join(self.suffixes)}" if self.suffixes else "a file"
        kinds = [named] if self.file else []
        if self.folder:
            kinds.append("a folder, whose name has no suffix" if self.suffixes else "a folder")
        kinds += ["'-' for standard output"] if self.stdout else []
        return " or ".join(kinds)

    def _may_be_folder(self, text: str) -> bool:
        suffix = Path(text).suffix
        explicit = text.endswith("/") or os.path.isdir(text)  # noqa: PTH112 - is_dir raises for long names
        return self.folder and (explicit or not suffix or "{" in suffix)


def check_folder(path: Path, failure: type[StreamsegError]) -> None:
    """Check that a folder is there or can be made, and can be written; nothing is made.

    Raises:
        failure: it cannot.
    """
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        kind = "a device" if is_device(above) else "a file"
        raise failure(f"cannot write into {path}: {above} is {kind}, expected a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise failure(f"cannot write into {path}: {above} is read-only for this user")


FILE = Destination(file=True)
FOLDER = Destination(folder=True)
PICTURE = Destination(file=True, suffixes=PICTURE_SUFFIXES)
JSON = Destination(file=True, stdout=True)
JSON_LINES = Destination(file=True, stdout=True, appended=True)

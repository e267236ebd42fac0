"""A folder of images, in natural order of their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from streamseg.errors import SourceError
from streamseg.runtime.resize import Image, Size
from streamseg.runtime.sources.frame import Frame

FOLDER_FPS = 25.0
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts)


class FolderSource:
    """The images of a folder as 25 frames a second; other files and sub-folders are passed over.

    Raises:
        SourceError: no such folder, no image in it, or an image that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        if not self._path.is_dir():
            raise SourceError(f"no such folder: {self._path}")
        found = (p for p in self._path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        self._files = sorted(found, key=lambda file: (natural_key(file.name), file.name))
        if not self._files:
            kinds = " ".join(IMAGE_SUFFIXES)
            raise SourceError(f"folder {self._path} holds no images; expected files in {kinds}")
        self._first = read_image(self._files[0])
        self.corrupt = 0

    @property
    def name(self) -> str:
        """The path as given."""
        return str(self._path)

    @property
    def fps(self) -> float:
        """25: images carry no times."""
        return FOLDER_FPS

    @property
    def frame_count(self) -> int | None:
        """Number of images."""
        return len(self._files)

    @property
    def size(self) -> Size:
        """(height, width) of the first image."""
        return self._first.shape[0], self._first.shape[1]

    def __iter__(self) -> Iterator[Frame]:
        """Yield every image."""
        for index, file in enumerate(self._files):
            image = self._first if index == 0 else read_image(file)
            yield Frame(image, index, index / FOLDER_FPS)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> FolderSource:
        """Return the source itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held open."""


def read_image(path: Path) -> Image:
    """Read an image file as (height, width, 3) uint8 RGB, turned as its EXIF data says.

    Raises:
        SourceError: unreadable, or not an image.
    """
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read image {path}: {error.strerror}") from None
    # Decoding from memory: cv2.imread would only warn, and on standard error.
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise SourceError(f"{path} is not an image, or is damaged; remove it or mend it")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), dtype=np.uint8)

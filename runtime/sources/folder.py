"""A folder of images, in natural order of their names."""

from __future__ import annotations

import math
import re
from pathlib import Path

import cv2
import numpy as np

from streamseg.errors import SourceError, raised_as
from streamseg.runtime.sources.options import SourceAddress
from streamseg.runtime.sources.reader import Picture
from streamseg.runtime.video.resize import Image

FOLDER_FPS = 25.0
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts)


class FolderReader:
    """The images of a folder as 25 frames a second; other files and sub-folders are passed over.

    Raises:
        SourceError: no image in the folder, or an image that cannot be read.
    """

    live = False
    corrupt = 0
    detail = ""

    def __init__(self, address: SourceAddress) -> None:
        path = Path(address.target)
        found = (p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        files = sorted(found, key=lambda file: (natural_key(file.name), file.name))
        if not files:
            kinds = " ".join(IMAGE_SUFFIXES)
            raise SourceError(f"folder {path} holds no images; expected files in {kinds}")
        self.fps = address.options.fps or FOLDER_FPS
        first = math.ceil(address.options.start * self.fps)
        if first >= len(files):
            raise SourceError(f"folder {path} has only {len(files) / self.fps:g} s of images")
        self.frame_count = len(files) - first
        self._files = iter(list(enumerate(files))[first:])

    def read(self) -> Picture | None:
        """Read the next image."""
        index, file = next(self._files, (0, None))
        if file is None:
            return None
        image = read_image(file)
        size = image.shape[0], image.shape[1]
        return Picture(lambda: image, size, index / self.fps)

    def close(self) -> None:
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
    with raised_as(SourceError, f"image {path}"):
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise SourceError(f"{path} is not an image, or is damaged; remove it or mend it")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), dtype=np.uint8)

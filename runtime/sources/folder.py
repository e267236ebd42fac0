"""Images: a folder of them in natural order of their names, or a single file."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import SourceError, raised_as
from streamseg.runtime.sources.options import SourceAddress
from streamseg.runtime.sources.reader import Picture
from streamseg.runtime.video.resize import Image

FOLDER_FPS = 25.0
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

logger = logging.getLogger(__name__)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts)


class FolderReader:
    """The images of a folder as 25 frames a second; other files and sub-folders are passed over.

    A single image file is a folder of one.

    Raises:
        SourceError: no image in the folder, or an image that cannot be read.
    """

    live = False
    corrupt = 0
    detail = ""

    def __init__(self, address: SourceAddress) -> None:
        path = Path(address.target)
        listed = path.iterdir() if path.is_dir() else [path]
        found = (p for p in listed if is_image_name(p))
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
        self._depth = BitDepth(address.name, address.options.bits)

    def read(self) -> Picture | None:
        """Read the next image."""
        index, file = next(self._files, (0, None))
        if file is None:
            return None
        image = read_image(file, self._depth)
        size = image.shape[0], image.shape[1]
        return Picture(lambda: image, size, index / self.fps)

    def close(self) -> None:
        """Nothing is held open."""


def is_image_name(path: Path) -> bool:
    """Whether a file's name ends as that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


class BitDepth:
    """How many bits the values of 16-bit images use, judged by the first one.

    Cameras store 10 or 12 bits in 16 without scaling; taken as 16 bits, their pictures are black.

    Args:
        name: of the source, for messages.
        bits: 8 to 16; ``None`` judges.
    """

    def __init__(self, name: str, bits: int | None = None) -> None:
        self._name, self._bits = name, bits

    def to_bytes(self, values: NDArray[np.uint16], path: Path) -> Image:
        """The values as uint8: their highest eight bits.

        Raises:
            SourceError: more bits than the first image showed.
        """
        largest = int(values.max(initial=0))
        if self._bits is None:
            self._bits = self._judge(largest)
        if largest >> self._bits:
            raise SourceError(
                f"image {path} has values up to {largest}, more than {self._bits} bits, as images "
                f"before it had; set the bits, for example {self._name}#bits=16"
            )
        return (values >> (self._bits - 8)).astype(np.uint8)

    def _judge(self, largest: int) -> int:
        bits = next(bits for bits in (8, 10, 12, 16) if largest >> bits == 0)
        if bits < 16:
            logger.warning(
                "%s: 16-bit images with values up to %d are read as %d-bit; #bits=16 prevents it",
                self._name,
                largest,
                bits,
            )
        return bits


def read_image(path: Path, depth: BitDepth | None = None) -> Image:
    """Read an image file as (height, width, 3) uint8 RGB, turned as its EXIF data says.

    Args:
        path: of the file.
        depth: judge of 16-bit images; a new one by default.

    Raises:
        SourceError: unreadable, not an image, or of a depth other than 8 or 16 bits.
    """
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read image {path}: {error.strerror}") from None
    # Decoding from memory: cv2.imread would only warn, and on standard error.
    with raised_as(SourceError, f"image {path}"):
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        image = cv2.imdecode(content, flags) if content.size else None
    if image is None:
        raise SourceError(f"{path} is not an image, or is damaged; remove or replace it")
    if image.dtype == np.uint16:
        image = (depth or BitDepth(str(path))).to_bytes(np.asarray(image, np.uint16), path)
    if image.dtype != np.uint8:
        raise SourceError(f"image {path} holds {image.dtype} values; expected 8 or 16 bits")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

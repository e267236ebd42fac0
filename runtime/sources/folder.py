"""Images: a folder of them in natural order of their names, or a single file."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.counting import count_of
from streamseg.errors import SourceError, raised_as
from streamseg.runtime.sources.listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES, list_files
from streamseg.runtime.sources.options import SourceAddress
from streamseg.runtime.sources.reader import Picture
from streamseg.runtime.video.resize import Image

FOLDER_FPS = 25.0
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8"

logger = logging.getLogger(__name__)


class DamagedImage(SourceError):
    """A file that is called an image and does not decode as one."""


class FolderReader:
    """The images of a folder as 25 frames a second; see ``list_files`` for what is skipped.

    Images that do not decode are left out and counted in ``corrupt``. A single image file is a
    folder of one.

    Raises:
        SourceError: no image in the folder or none that decodes, one that cannot be read, or as
            many videos as images.
    """

    live = False

    def __init__(self, address: SourceAddress) -> None:
        path = Path(address.target)
        files = find_images(path) if path.is_dir() else [path]
        self.corrupt = 0
        self.detail = describe_videos(path) if path.is_dir() else ""
        self.fps = address.options.fps or FOLDER_FPS
        first = math.ceil(address.options.start * self.fps)
        if first >= len(files):
            raise SourceError(f"folder {path} has only {len(files) / self.fps:g} s of images")
        self.frame_count = len(files) - first
        self._files = iter(list(enumerate(files))[first:])
        self._depth = BitDepth(address.name, address.options.bits)

    def read(self) -> Picture | None:
        """Read the next image that decodes."""
        damage: DamagedImage | None = None
        for index, file in self._files:
            try:
                image = read_image(file, self._depth)
            except DamagedImage as error:
                self.corrupt += 1
                damage = error
                logger.info("left out: %s", error)
                continue
            size = image.shape[0], image.shape[1]
            return Picture(lambda image=image: image, size, index / self.fps)  # type: ignore[misc]
        if damage is not None and self.corrupt == self.frame_count:
            raise damage
        return None

    def close(self) -> None:
        """Nothing is held open."""


def find_images(folder: Path) -> list[Path]:
    """The images of a folder, in order.

    Raises:
        SourceError: there is none, or at least as many videos, which then are what is meant.
    """
    try:
        images = list_files(folder, IMAGE_SUFFIXES)
        videos = list_files(folder, VIDEO_SUFFIXES)
    except OSError as error:
        raise SourceError(f"cannot read folder {folder}: {error.strerror}") from None
    if videos and len(videos) >= len(images):
        images_too = (
            f" and {count_of(len(images), 'image')}, such as {images[0].name}" if images else ""
        )
        raise SourceError(
            f"folder {folder} holds "
            f"{count_of(len(videos), 'video')}, such as {videos[0].name}{images_too}; "
            "give one of the videos, a folder of images only, or use streamseg batch"
        )
    if not images:
        kinds = " ".join(IMAGE_SUFFIXES)
        raise SourceError(f"folder {folder} holds no images; expected files in {kinds}")
    return images


def describe_videos(folder: Path) -> str:
    """What to say of videos that lie among the images; empty where there are none."""
    videos = list_files(folder, VIDEO_SUFFIXES)
    return f"{count_of(len(videos), 'video')} beside the images skipped" if videos else ""


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


def is_cut_off(content: bytes) -> bool:
    """Whether a PNG or JPEG ends too early; OpenCV fills the rest with grey."""
    if content.startswith(PNG_MAGIC):
        return b"IEND" not in content[-64:]
    return content.startswith(JPEG_MAGIC) and b"\xff\xd9" not in content[2:]


def read_image(path: Path, depth: BitDepth | None = None) -> Image:
    """Read an image file as (height, width, 3) uint8 RGB, turned as its EXIF data says.

    Args:
        path: of the file.
        depth: judge of 16-bit images; a new one by default.

    Raises:
        DamagedImage: cut off, or not an image.
        SourceError: unreadable, or of a depth other than 8 or 16 bits.
    """
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read image {path}: {error.strerror}") from None
    if is_cut_off(content.tobytes()):
        raise DamagedImage(f"image {path} is cut off after {content.size} bytes; replace it")
    # Decoding from memory: cv2.imread would only warn, and on standard error.
    with raised_as(DamagedImage, f"image {path}"):
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        image = cv2.imdecode(content, flags) if content.size else None
    if image is None:
        raise DamagedImage(f"{path} is not an image, or is damaged; remove or replace it")
    if image.dtype == np.uint16:
        image = (depth or BitDepth(str(path))).to_bytes(np.asarray(image, np.uint16), path)
    if image.dtype != np.uint8:
        raise SourceError(f"image {path} holds {image.dtype} values; expected 8 or 16 bits")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

"""Reading frames and label maps, with truncated and foreign files recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError, raised_as
from streamseg.evaluation.datasets.label_classes import VOID
from streamseg.runtime.sources.folder import PNG_MAGIC, is_cut_off

_PNG_COLOR_TYPE = 25  # byte of IHDR that holds the colour type
_PNG_PALETTE = 3


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    if is_cut_off(content) or not content:
        raise DatasetError(
            f"{path} is cut off after {len(content)} bytes: expected a whole image. "
            "Download it again."
        )
    return content


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a frame.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DatasetError: the file is missing, cut off or not an image.
    """
    content = np.frombuffer(_read_bytes(path), np.uint8)
    with raised_as(DatasetError, f"image {path}"):
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if decoded is None:
        raise DatasetError(f"{path} is not an image that OpenCV can decode. Download it again.")
    if decoded.dtype == np.uint16:
        decoded = _highest_bits(np.asarray(decoded, np.uint16), path)
    if decoded.dtype != np.uint8:
        raise DatasetError(f"{path} holds {decoded.dtype} values, expected 8 or 16 bits")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _highest_bits(values: NDArray[np.uint16], path: Path) -> NDArray[np.uint8]:
    """16-bit values as uint8. 10 or 12 bits stored without scaling would be nearly black."""
    largest = int(values.max(initial=0))
    if 0 < largest < 1 << 12:
        raise DatasetError(
            f"{path} has 16-bit values up to {largest}: its camera seems to have written 12 bits "
            "or fewer without scaling. Convert the images to 8 bits first."
        )
    return (values >> 8).astype(np.uint8)


def _read_indexed_png(path: Path) -> NDArray[np.uint8]:
    # OpenCV turns a palette PNG into colours; the label is the palette index.
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        if frame.format.name != "pal8":
            raise DatasetError(
                f"{path} was decoded as {frame.format.name}: expected a palette image"
            )
        plane = frame.planes[0]
        rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
        return np.array(rows[: frame.height, : frame.width])


def read_label_values(path: Path, dataset: str) -> NDArray[np.uint8]:
    """Read a label map as it is stored.

    Returns:
        (H, W) uint8.

    Raises:
        DatasetError: the file is missing, cut off or has colours.
    """
    with raised_as(DatasetError, f"label map {path}"):
        return _decode_label(path, _read_bytes(path), dataset)


def _decode_label(path: Path, content: bytes, dataset: str) -> NDArray[np.uint8]:
    if content.startswith(PNG_MAGIC) and content[_PNG_COLOR_TYPE] == _PNG_PALETTE:
        return _read_indexed_png(path)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.ndim != 2 or decoded.dtype != np.uint8:
        got = "undecodable" if decoded is None else f"{decoded.dtype} {decoded.shape}"
        raise DatasetError(
            f"{path} is {got}: expected a label map of one 8-bit channel, as {dataset} publishes it"
        )
    return np.asarray(decoded, np.uint8)


@dataclass(frozen=True)
class LabelCoding:
    """How the values of a label file map to classes.

    ``table[value]`` is the class, 255 for void, or -1 where no file of the dataset has that value.
    """

    dataset: str
    table: NDArray[np.int16]

    @classmethod
    def of(cls, dataset: str, classes: Mapping[int, int], void: tuple[int, ...]) -> LabelCoding:
        """Build from {file value: class} and the file values that count as void."""
        table = np.full(256, -1, np.int16)
        for value in void:
            table[value] = VOID
        for value, index in classes.items():
            table[value] = index
        return cls(dataset, table)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Read a label map as classes.

        Returns:
            (H, W) uint8 of class indices, 255 = void.

        Raises:
            DatasetError: the file is missing, cut off, has colours, or holds a value that the
                dataset does not have.
        """
        values = read_label_values(path, self.dataset)
        labels = self.table[values]
        if (labels < 0).any():
            raise DatasetError(
                f"{path} holds the value {int(values[labels < 0][0])}, which {self.dataset} labels "
                "do not have. Is this another dataset's tree?"
            )
        return labels.astype(np.uint8)

"""Contact sheet: a few frames of the whole stream on one PNG."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from streamseg.counting import count_of
from streamseg.errors import SinkError
from streamseg.runtime.sinks.sink import SegmentedFrame, reserve_draft, write_failure
from streamseg.runtime.video.resize import Image

GAP = 4


class SheetSink:
    """Keeps pictures spread evenly over a stream of unknown length, and tiles them at the end.

    Args:
        path: target, ``.png``. An older file is replaced.
        count: pictures on the sheet, at most.
        columns: pictures in a row.
        tile_width: width of a picture in pixels.

    Raises:
        SinkError: another suffix, or a place that cannot be written.
    """

    needs_picture = True
    needs_confidence = False

    def __init__(
        self, path: str | Path, *, count: int = 12, columns: int = 4, tile_width: int = 400
    ) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() != ".png":
            raise SinkError(f"cannot write {self._path} as contact sheet; expected a name in .png")
        self._count, self._columns, self._tile_width = count, columns, tile_width
        self._tiles: list[tuple[int, Image]] = []
        self._stride = 1
        self._seen = 0
        self._draft: Path | None = reserve_draft(self._path)

    @property
    def path(self) -> Path:
        """The target."""
        return self._path

    def write(self, frame: SegmentedFrame) -> None:
        """Keep a small copy of every ``stride``-th picture; the stride doubles when full."""
        if self._seen % self._stride == 0:
            if len(self._tiles) == 4 * self._count:
                del self._tiles[1::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self._tiles.append((frame.index, self._shrink(frame.picture)))
        self._seen += 1

    def _shrink(self, picture: Image) -> Image:
        height = max(1, round(picture.shape[0] * self._tile_width / picture.shape[1]))
        size = (self._tile_width, height)
        tile = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), dtype=np.uint8)

    def finish(self) -> str:
        """Tile and write.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason.
        """
        if self._draft is None:
            return ""
        if not self._tiles:
            self.discard()
            return f"{self._path}: no frames, not written"
        number = min(self._count, len(self._tiles))
        chosen = np.linspace(0, len(self._tiles) - 1, number).round().astype(int)
        indices = [self._tiles[i][0] for i in chosen]
        _, content = cv2.imencode(".png", self._arrange([self._tiles[i][1] for i in chosen]))
        try:
            self._draft.write_bytes(content.tobytes())
            self._draft.replace(self._path)
        except OSError as error:
            failure = write_failure(self._path, error)
            self.discard()
            raise failure from None
        self._draft = None
        seen = count_of(self._seen, "frame")
        return f"{self._path}: {number} of {seen}, {indices[0]} to {indices[-1]}"

    def _arrange(self, tiles: list[Image]) -> Image:
        columns = min(self._columns, len(tiles))
        rows = math.ceil(len(tiles) / columns)
        height = max(tile.shape[0] for tile in tiles) + GAP
        width = self._tile_width + GAP
        sheet = np.full((rows * height + GAP, columns * width + GAP, 3), 32, np.uint8)
        for place, tile in enumerate(tiles):
            top = GAP + place // columns * height
            left = GAP + place % columns * width
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return sheet

    def discard(self) -> None:
        """Remove the reserved file."""
        if self._draft is not None:
            self._draft.unlink(missing_ok=True)
            self._draft = None

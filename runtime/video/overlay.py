"""Class colours and a legend over the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from streamseg.errors import SinkError
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.video.resize import Image, Size

SHOW_ALL_UP_TO = 12
# A class enters the legend once it covers this share of a frame: single pixels are noise.
LEGEND_SHARE = 1e-3
PANEL_OPACITY = 0.75
LEGEND_AREA = 0.1  # the largest share of a frame that the legend covers
SMALLEST_LINE = 9  # pixels


class Overlay:
    """Blends class colours over frames, with a legend in the upper left corner.

    The legend lists all classes when they are few, else those seen in the stream so far in the
    order in which they appeared, so that entries never move.

    Args:
        classes: id, name and RGB colour; pixels of other labels (255 = none) stay as they are.
        opacity: of the class colour, 0 to 1.
        legend: draw it.

    Attributes:
        classes: as given.

    Raises:
        SinkError: opacity out of range.
    """

    def __init__(
        self, classes: Sequence[ClassInfo], *, opacity: float = 0.5, legend: bool = True
    ) -> None:
        if not 0 <= opacity <= 1:
            raise SinkError(f"opacity is {opacity}; expected 0 to 1")
        self.classes = tuple(classes)
        self._classes = {entry.id: entry for entry in classes}
        self._opacity = opacity
        self._palette = np.zeros((256, 1, 3), np.uint8)
        self._unlabelled = np.full(256, 255, np.uint8)
        for entry in classes:
            self._palette[entry.id] = entry.color
            self._unlabelled[entry.id] = 0
        self._legend = legend
        few = len(classes) <= SHOW_ALL_UP_TO
        self._listed: list[int] = sorted(self._classes) if few else []
        self._panel: Image | None = None
        self._size: Size = (0, 0)

    def draw(self, frame: Image, labels: Image, out: Image) -> None:
        """Write the frame with classes laid over it into ``out``; allocates nothing.

        Args:
            frame: (height, width, 3) uint8 RGB.
            labels: (height, width) uint8.
            out: like ``frame``, C-contiguous; overwritten whole.
        """
        if labels.shape != self._size:
            self._prepare((labels.shape[0], labels.shape[1]))
        cv2.applyColorMap(labels, self._palette, dst=self._color)
        cv2.addWeighted(frame, 1 - self._opacity, self._color, self._opacity, 0, dst=out)
        cv2.LUT(labels, self._unlabelled, dst=self._mask)
        if cv2.countNonZero(self._mask):
            cv2.copyTo(frame, self._mask, dst=out)
        if self._legend:
            self._draw_legend(labels, out)

    def _prepare(self, size: Size) -> None:
        self._size = size
        self._color = np.empty((*size, 3), np.uint8)
        self._mask = np.empty(size, np.uint8)
        self._panel = None

    def _draw_legend(self, labels: Image, out: Image) -> None:
        if len(self._listed) < len(self._classes):
            counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
            seen = np.flatnonzero(counts >= max(1.0, LEGEND_SHARE * labels.size))
            fresh = [int(i) for i in seen if i in self._classes and i not in self._listed]
            if fresh:
                self._listed += fresh
                self._panel = None
        if self._panel is None:
            entries = [self._classes[i] for i in self._listed]
            self._panel = draw_legend_panel(entries, self._size)
        height, width = self._panel.shape[:2]
        corner = out[:height, :width]
        cv2.addWeighted(corner, 1 - PANEL_OPACITY, self._panel, PANEL_OPACITY, 0, dst=corner)


def write_caption(picture: Image, text: str) -> None:
    """Write a line of white text on a dark band along the lower edge of an RGB picture."""
    height, width = picture.shape[:2]
    line = max(12, round(height / 22))
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, line // 24)
    natural = cv2.getTextSize(text, font, 1.0, thickness)[0][0]
    scale = min(line / 32, 0.96 * width / natural)
    band = picture[height - line :]
    cv2.addWeighted(band, 1 - PANEL_OPACITY, np.full_like(band, 24), PANEL_OPACITY, 0, dst=band)
    place = (line // 3, height - line // 4)
    cv2.putText(picture, text, place, font, scale, (255, 255, 255), thickness, cv2.LINE_AA)


def draw_legend_panel(entries: Sequence[ClassInfo], frame_size: Size) -> Image:
    """A dark panel with a swatch and a name for each class that fits in the frame.

    It covers at most a tenth of the frame: the text becomes smaller, down to ``SMALLEST_LINE``
    pixels a line. Where not all fit then, the last line says how many more there are. A frame too
    small for one line gets an empty panel.
    """
    names = [entry.name for entry in entries]
    line = max(SMALLEST_LINE, round(frame_size[0] / 30))
    while line > SMALLEST_LINE and not _fits(names, line, frame_size):
        line -= 1
    shown = _fitting(names, line, frame_size)
    panel = np.full((*_panel_size(shown, line, frame_size), 3), 24, np.uint8)
    scale, thickness = line / 32, max(1, line // 24)
    for row, name in enumerate(shown):
        top = line // 4 + row * line
        if name == names[row]:
            corner = (line + line // 4, top + line - line // 4)
            cv2.rectangle(
                panel, (line // 3, top + line // 5), corner, entries[row].color, cv2.FILLED
            )
        place = (line + line // 2, top + line - line // 4)
        cv2.putText(
            panel, name, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, 16
        )
    return panel


def _fitting(names: list[str], line: int, frame_size: Size) -> list[str]:
    """As many names as there is room for, and how many there are beyond them."""
    for kept in range(len(names), 0, -1):
        more = [f"+{len(names) - kept} more"] if kept < len(names) else []
        if _fits([*names[:kept], *more], line, frame_size):
            return [*names[:kept], *more]
    return []


def _fits(names: list[str], line: int, frame_size: Size) -> bool:
    height, width = _panel_size(names, line, frame_size)
    return height <= frame_size[0] and height * width <= LEGEND_AREA * math.prod(frame_size)


def _panel_size(names: list[str], line: int, frame_size: Size) -> Size:
    """(height, width) of the panel with these lines; the height may exceed the frame's."""
    if not names:
        return 0, 0
    scale, thickness = line / 32, max(1, line // 24)
    texts = [cv2.getTextSize(n, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0] for n in names]
    return line * len(names) + line // 2, min(frame_size[1], line * 2 + max(texts))

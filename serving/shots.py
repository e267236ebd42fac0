"""From a frame and its labels to the one message that every viewer gets."""

from __future__ import annotations

import json
import logging
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from streamseg.runtime.video.resize import Image, Size

logger = logging.getLogger(__name__)

HALT_SECONDS = 1.0
LONGEST_SIDE = 960
JPEG_QUALITY = 80
# Labels are flat areas: run lengths find them about as well as a search does.
PNG_OPTIONS = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
)


@dataclass(frozen=True)
class Shot:
    """What one frame shows.

    Attributes:
        image: (height, width, 3) uint8 RGB.
        labels: (height, width) uint8.
        plain: labels of the same frame without state; None where nobody compares.
        figures: what stands beside the picture; must fit in JSON.
    """

    image: Image
    labels: Image
    plain: Image | None
    figures: Mapping[str, Any]

    def encode(self) -> bytes:
        """The message; see ``encode_shot``."""
        return encode_shot(self)


class Encodable(Protocol):
    """What the encoder makes a message of."""

    def encode(self) -> bytes | str:
        """The message: binary, or text."""


def encode_shot(shot: Shot) -> bytes:
    """The message: uint32 length of the head (big endian), the head in JSON, JPEG, PNG, PNG.

    The head holds the figures, ``areas`` (class id -> share of the labelled frame) and ``parts``,
    the lengths of frame, labels and, where it is there, plain labels. Label PNGs hold class ids;
    the page colours and blends them, so that opacity costs the server nothing.
    """
    size = fitting_size((shot.labels.shape[0], shot.labels.shape[1]))
    maps = [shot.labels] if shot.plain is None else [shot.labels, shot.plain]
    parts = [encode_picture(shot.image, size), *(encode_labels(labels, size) for labels in maps)]
    head = {**shot.figures, "areas": areas(shot.labels), "parts": [len(part) for part in parts]}
    text = json.dumps(head, separators=(",", ":")).encode()
    return b"".join([struct.pack(">I", len(text)), text, *parts])


def fitting_size(size: Size) -> Size:
    """The size to send: at most ``LONGEST_SIDE`` on each side, of the same shape."""
    scale = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def encode_picture(image: Image, size: Size) -> bytes:
    """A JPEG of an RGB picture."""
    if image.shape[:2] != size:
        image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _encode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))


def encode_labels(labels: Image, size: Size) -> bytes:
    """A grey PNG of class ids."""
    if labels.shape != size:
        small = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        labels = np.asarray(small, np.uint8)
    return _encode(".png", labels, PNG_OPTIONS)


def _encode(suffix: str, picture: cv2.typing.MatLike, options: tuple[int, ...]) -> bytes:
    good, content = cv2.imencode(suffix, picture, options)
    assert good
    return content.tobytes()


def areas(labels: Image) -> dict[int, float]:
    """Share of the frame of every label that occurs."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return {int(i): round(float(counts[i]) / labels.size, 5) for i in np.flatnonzero(counts)}


Publish = Callable[[Any], None]


class ShotEncoder(threading.Thread):
    """Encodes each stream's newest shot beside the step; a shot that waits too long is replaced.

    Attributes:
        encoded: shots encoded so far.
    """

    def __init__(self) -> None:
        super().__init__(name="streamseg-page-encode", daemon=True)
        self.encoded = 0
        self._waiting: dict[str, tuple[Encodable, Publish]] = {}
        self._change = threading.Condition()
        self._halted = False

    def submit(self, stream: str, shot: Encodable, publish: Publish) -> None:
        """Encode ``shot`` when its turn comes, and hand the message to ``publish``.

        Args:
            stream: whose; of each one shot waits.
            shot: picture or labels.
            publish: called in the encoder's thread.
        """
        with self._change:
            # A replaced shot keeps its place in the row, a new one goes to the end.
            self._waiting[stream] = (shot, publish)
            self._change.notify()

    def run(self) -> None:
        """Encode until ``halt`` is called."""
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._halted)
                if self._halted:
                    return
                stream = next(iter(self._waiting))
                shot, publish = self._waiting.pop(stream)
            try:
                message = shot.encode()
            except Exception:  # one stream's picture must not end the pages of all
                logger.exception("%s: a message for the page cannot be encoded", stream)
                continue
            self.encoded += 1
            publish(message)

    def halt(self) -> None:
        """Stop; shots that wait are forgotten."""
        with self._change:
            self._halted = True
            self._change.notify()
        self.join(HALT_SECONDS)

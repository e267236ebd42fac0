"""An animated picture: a bundle with its state, next to the same bundle reset before every frame.

    python samples/side_by_side.py out/street 'synthetic:clean?size=256x512' -o state.webp

If the source has true labels (drawn streets), each side shows how many pixels are correct. Both
show how many pixels changed their label since the previous frame. Needs Pillow.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

import streamseg

Picture = npt.NDArray[np.uint8]
WIDTH = 400  # of one side, pixels
BAND = 44


class Side:
    """One half of the picture: its stream, and what its caption adds up."""

    def __init__(self, title: str, stream: streamseg.Stream) -> None:
        self.title, self.stream = title, stream
        self.right: list[float] = []
        self.changed: list[float] = []
        self._last: Picture | None = None

    def draw(self, frame: Picture, truth: Picture | None) -> Picture:
        """The overlay of the next frame, with a caption below."""
        result = self.stream.step(frame)
        if truth is not None:
            self.right.append(float((result.labels == truth).mean()))
        if self._last is not None:
            self.changed.append(float((result.labels != self._last).mean()))
        self._last = result.labels
        picture = result.overlay(legend=False)
        height = round(WIDTH * picture.shape[0] / picture.shape[1])
        small = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
        band = np.full((BAND, WIDTH, 3), 24, np.uint8)
        for row, text in enumerate((self.title, self.figures)):
            place = (8, 17 + 19 * row)
            cv2.putText(band, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.44, (255,) * 3, 1, 16)
        return np.concatenate([small, band])

    @property
    def figures(self) -> str:
        """Means so far."""
        parts = [f"{np.mean(self.right):.1%} right"] if self.right else []
        parts += [f"{np.mean(self.changed):.1%} change a frame"] if self.changed else []
        return ", ".join(parts)


def draw_pictures(bundle: str, source: str, frames: int) -> Iterator[Image.Image]:
    with streamseg.open(bundle) as stream, streamseg.open_source(source) as video:
        sides = Side("with state", stream), Side("reset before every frame", stream.sibling())
        for frame in islice(video, frames):
            sides[1].stream.reset()
            halves = [side.draw(frame.image, frame.truth) for side in sides]
            gap = np.full((len(halves[0]), 6, 3), 255, np.uint8)
            yield Image.fromarray(np.concatenate([halves[0], gap, halves[1]], axis=1))
        for side in sides:
            print(f"{side.title}: {side.figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("source", help="drawn street, file, ...")
    parser.add_argument("-o", "--out", required=True, help="picture to write (.webp)")
    parser.add_argument("--frames", type=int, default=48)
    arguments = parser.parse_args()
    first, *rest = draw_pictures(arguments.bundle, arguments.source, arguments.frames)
    first.save(
        arguments.out,
        save_all=True,
        append_images=rest,
        duration=100,
        loop=0,
        quality=62,
        method=4,
    )


if __name__ == "__main__":
    main()

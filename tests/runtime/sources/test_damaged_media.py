"""Seeded damage to videos and images: frames come out, or a SourceError that names the file."""

from __future__ import annotations

import logging
import random
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import SourceOptions, open_source
from tests.fuzzing import damage, inputs, scaled

CLIPS = {"h264.mp4": "libx264", "h264.mkv": "libx264", "h264.ts": "libx264", "a.avi": "mpeg4"}
IMAGES = (".png", ".jpg", ".bmp", ".webp", ".tiff")


def clip(path: Path, codec: str) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(8):
            image = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    folder = tmp_path_factory.mktemp("media")
    image = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    videos = [(Path(name).suffix, clip(folder / name, codec)) for name, codec in CLIPS.items()]
    return videos + [(suffix, cv2.imencode(suffix, image)[1].tobytes()) for suffix in IMAGES]


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_damaged_media_give_frames_or_a_source_error(
    tmp_path: Path, media: list[tuple[str, bytes]], as_folder: bool
) -> None:
    rng = random.Random(5 + as_folder)
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    shown = 0
    for _ in range(inputs(300)):
        suffix, content = rng.choice(media[len(CLIPS) :] if as_folder else media)
        for _ in range(rng.choice((1, 1, 3, 20))):
            content = damage(content, rng)
        file = tmp_path / f"damaged{suffix}"
        file.write_bytes(content)
        try:
            with open_source(str(tmp_path if as_folder else file), SourceOptions()) as source:
                for frame in islice(source, 20):
                    assert frame.image.ndim == 3
                    shown += 1
        except SourceError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
        file.unlink()
    assert shown > scaled(20)

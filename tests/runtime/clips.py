"""Small real videos and folders of images for tests, and full disks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamseg.runtime.video.resize import Image, Size

TS_PACKET = 188


def gradient_frame(index: int, size: Size) -> Image:
    """A smooth picture whose blue channel tells its index (10 a frame)."""
    height, width = size
    frame = np.empty((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    frame[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    frame[..., 2] = index * 10 % 256
    return frame


def write_clip(
    path: Path, *, frames: int = 10, size: Size = (48, 64), fps: int = 10, faststart: bool = True
) -> Path:
    """An H.264 file of ``gradient_frame``s, every frame a key frame."""
    options = {"movflags": "faststart"} if faststart and path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "g": "1", "bf": "0"}
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(gradient_frame(index, size), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def join_clips(path: Path, sizes: Sequence[Size]) -> Path:
    """An MPEG-TS file of five frames of each size: raw joins are valid there."""
    parts = [write_clip(path.with_name(f"p{i}.ts"), frames=5, size=s) for i, s in enumerate(sizes)]
    content = bytearray(b"".join(part.read_bytes() for part in parts))
    # Packets of a program count up; where the count jumps, something was lost.
    counts: dict[int, int] = {}
    for begin in range(0, len(content), TS_PACKET):
        program = int.from_bytes(content[begin + 1 : begin + 3], "big") & 0x1FFF
        has_payload = content[begin + 3] >> 4 & 1
        counts[program] = (counts.get(program, 15) + has_payload) % 16
        content[begin + 3] = content[begin + 3] & 0xF0 | counts[program]
    path.write_bytes(content)
    return path


def write_folder(path: Path, sizes: Sequence[Size]) -> Path:
    """PNG files 1.png, 2.png, ... of the given sizes."""
    path.mkdir()
    for index, size in enumerate(sizes):
        bgr = np.ascontiguousarray(gradient_frame(index, size)[..., ::-1])
        cv2.imwrite(str(path / f"{index + 1}.png"), bgr)
    return path


def read_clip(path: Path) -> list[Image]:
    """Every frame of a video as RGB; decoding errors raise."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a tmpfs of that size; skips where that is not allowed."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)

"""The ffmpeg program: makes clips that PyAV cannot, and shows what a player would."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg here: run make stream-tools")
WIDTH, HEIGHT = 160, 96


def ffmpeg(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """Run it; returns its standard output."""
    command = [str(FFMPEG), "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def shown(path: Path, size: tuple[int, int], *filters: str) -> np.ndarray:
    """Every picture as ffmpeg shows it, [frames, height, width, 3] RGB."""
    chain = ["-vf", ",".join(filters)] if filters else []
    raw = ffmpeg("-i", path, *chain, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, *size, 3)


def write_raw(frames: np.ndarray, path: Path, *arguments: str, fps: int = 25) -> Path:
    """Encode [frames, height, width, 3] RGB."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    given = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-")
    ffmpeg(*given, "-pix_fmt", "yuv420p", *arguments, path, data=frames.tobytes())
    return path


def quadrants(count: int = 3) -> np.ndarray:
    """Red, green, blue and yellow quarters with a white mark, so that no two turns look alike."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    top, left = slice(0, HEIGHT // 2), slice(0, WIDTH // 2)
    bottom, right = slice(HEIGHT // 2, None), slice(WIDTH // 2, None)
    picture[top, left], picture[top, right] = (200, 30, 30), (30, 200, 30)
    picture[bottom, left], picture[bottom, right] = (30, 30, 200), (220, 220, 40)
    picture[8:24, 16:64] = 240
    return np.repeat(picture[None], count, 0)


def numbered(count: int) -> np.ndarray:
    """Frames whose number stands along the top as nine bits, 16 pixels each."""
    frames = np.full((count, HEIGHT, WIDTH, 3), 60, np.uint8)
    for i in range(count):
        frames[i, HEIGHT // 2 :, (i * 3) % WIDTH] = 200
        for bit in range(9):
            frames[i, :24, 16 * bit : 16 * bit + 16] = 255 * (i >> bit & 1)
    return frames


def number_of(image: np.ndarray) -> int:
    """The number that a frame of ``numbered`` shows."""
    return sum(
        1 << bit for bit in range(9) if image[4:20, 16 * bit + 5 : 16 * bit + 11].mean() > 128
    )


def set_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a display matrix into the track header of an MP4 file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    at += 4 + (20 if content[at] == 0 else 32) + 16
    values = (a, b, c, d)
    ints = [round(v * 65536) for v in values]
    content[at : at + 36] = struct.pack(
        ">9i", ints[0], ints[1], 0, ints[2], ints[3], 0, 0, 0, 1 << 30
    )
    path.write_bytes(content)
    return path

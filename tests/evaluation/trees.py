"""Writes tiny trees in the real layout of each dataset, with made-up content."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

SIZE = (12, 20)


def write_image(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def label_map(values: list[int], shift: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Vertical stripes of the given values, moved by ``shift`` columns."""
    columns = (np.arange(size[1]) + shift) // 3 % len(values)
    return np.broadcast_to(np.array(values, np.uint8)[columns], size).copy()


def write_label(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def write_palette_png(path: Path, indices: np.ndarray) -> None:
    """A colour-type-3 PNG, as PIL writes a label map that carries a palette."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width = indices.shape
    palette = bytes(value for i in range(256) for value in (i, i * 7 % 256, 255 - i))
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


CITYSCAPES_LABELED = (("aachen", 0, 19), ("aachen", 1, 19), ("bochum", 0, 313), ("bochum", 0, 343))
"""(city, drive, number of the labelled frame); the last two snippets follow without a gap."""


def make_cityscapes(
    root: Path, split: str = "val", *, sequences: bool = True, labels: bool = True
) -> Path:
    package = "leftImg8bit_sequence" if sequences else "leftImg8bit"
    for city, drive, labelled in CITYSCAPES_LABELED:
        frames = range(labelled - 19, labelled + 11) if sequences else (labelled,)
        for frame in frames:
            stem = f"{city}_{drive:06d}_{frame:06d}"
            write_image(root / package / split / city / f"{stem}_leftImg8bit.png", frame)
        stem = f"{city}_{drive:06d}_{labelled:06d}"
        if labels:
            path = root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
            write_label(path, label_map([7, 26, 0, 33, 9, 255]))
            write_image(path.with_name(f"{stem}_gtFine_color.png"), 0)
    return root


def make_vspw(root: Path, split: str = "val", *, masks: bool = True, palette: bool = False) -> Path:
    videos = {"127_-hIVCYO4C90": 18, "5_3-WzGJCOIzg": 5}
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}.txt").write_text("\n".join(videos) + "\n")
    for video, count in videos.items():
        for i in range(count):
            stem = f"{4 * i:08d}"
            write_image(root / "data" / video / "origin" / f"{stem}.jpg", i)
            if masks:
                path = root / "data" / video / "mask" / f"{stem}.png"
                write = write_palette_png if palette else write_label
                write(path, label_map([0, 1, 124, 61, 255], shift=i))
    return root


def make_camvid(root: Path) -> Path:
    names = {
        "train": [f"0001TP_{6690 + 30 * i:06d}" for i in range(4)]
        + [f"0016E5_{n:05d}" for n in (390, 420, 450, 1000)],
        "val": [f"0016E5_{7959 + 2 * i:05d}" for i in range(20)],
        "test": [f"Seq05VD_f{30 * i:05d}" for i in range(6)],
    }
    for split, stems in names.items():
        for i, stem in enumerate(stems):
            write_image(root / split / f"{stem}.png", i)
            write_label(
                root / f"{split}annot" / f"{stem}.png", label_map([0, 3, 8, 11], shift=i // 10)
            )
    return root

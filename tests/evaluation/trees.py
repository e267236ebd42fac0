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


def make_kitti360(root: Path) -> Path:
    """Two runs of frames of one drive in train, one in val; labels of all frames."""
    drive = "2013_05_28_drive_0000_sync"
    runs = {"train": [*range(250, 254), *range(300, 303)], "val": [*range(900, 905)]}
    for split, numbers in runs.items():
        lines = []
        for number in numbers:
            image = f"data_2d_raw/{drive}/image_00/data_rect/{number:010d}.png"
            label = f"data_2d_semantics/train/{drive}/image_00/semantic/{number:010d}.png"
            write_image(root / image, number)
            write_label(root / label, label_map([7, 26, 34, 35, 36, 37, 44, 255]))
            lines.append(f"{image} {label}")
        folder = root / "data_2d_semantics/train"
        (folder / f"2013_05_28_drive_{split}_frames.txt").write_text("\n".join(lines) + "\n")
    return root


def make_apolloscape(root: Path) -> Path:
    """Two cameras of a record in train, one in val; times 0.2 s apart."""
    for split, records in {"train": ("Record001",), "val": ("Record007",)}.items():
        lines = []
        for record in records:
            for camera in (5, 6) if split == "train" else (5,):
                for i in range(3):
                    stem = f"170908_0615024{i * 20:02d}_Camera_{camera}"
                    place = f"{record}/Camera {camera}"
                    image = f"road01_ins/ColorImage/{place}/{stem}.jpg"
                    label = f"road01_ins/Label/{place}/{stem}_bin.png"
                    write_image(root / image, i)
                    write_label(root / label, label_map([33, 49, 17, 1, 98, 161, 255]))
                    lines.append(f"{image}\t{label}")
        (root / "public_image_lists").mkdir(parents=True, exist_ok=True)
        # The release lists frames in no order.
        text = "\n".join(reversed(lines)) + "\n"
        (root / f"public_image_lists/road01_ins_{split}.lst").write_text(text)
    return root


def make_bdd100k(root: Path, *, first_release: bool = False) -> Path:
    images = "seg/images" if first_release else "images/10k"
    masks = "seg/labels" if first_release else "labels/sem_seg/masks"
    suffix = "_train_id" if first_release else ""
    for split in ("train", "val", "test"):
        for i in range(3):
            stem = f"0004a4c0-d4dff0a{i}"
            write_image(root / images / split / f"{stem}.jpg", i)
            if split != "test":
                path = root / masks / split / f"{stem}{suffix}.png"
                write_label(path, label_map([0, 13, 18, 255]))
    return root


def make_nyudv2(root: Path) -> Path:
    for i in range(5):
        write_image(root / f"RGB/{i}.jpg", i)
        write_label(root / f"Label/{i}.png", label_map([0, 1, 40, 255]))
    (root / "train.txt").write_text("RGB/0.jpg\nRGB/3.jpg\n")
    (root / "test.txt").write_text("RGB/1.jpg Label/1.png\n2\nRGB/4.jpg\n")
    return root


def make_ade20k(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    head = "Idx\tRatio\tTrain\tVal\tStuff\tName"
    names = [
        "wall",
        "building, edifice",
        *(f"thing {i}" for i in range(3, 149)),
        "screen",
        "screen",
    ]
    rows = [f"{i}\t0.1\t10\t1\t1\t{name}" for i, name in enumerate(names, 1)]
    (root / "objectInfo150.txt").write_text("\n".join([head, *rows]) + "\n")
    for folder, tag in (("training", "train"), ("validation", "val")):
        for i in range(1, 3):
            stem = f"ADE_{tag}_{i:08d}"
            write_image(root / "images" / folder / f"{stem}.jpg", i)
            write_label(root / "annotations" / folder / f"{stem}.png", label_map([0, 1, 2, 150]))
    return root

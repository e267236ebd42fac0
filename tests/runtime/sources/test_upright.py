"""Pictures stand as ffmpeg and Pillow show them: turned, in their aspect, with whole fields."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import open_source
from tests.runtime.sources.ffmpeg_tool import (
    HEIGHT,
    WIDTH,
    ffmpeg,
    needs_ffmpeg,
    quadrants,
    set_matrix,
    shown,
    write_raw,
)

CASES = Path(__file__).parent / "cases"
SIGNED = [(sx, 0, 0, sy) for sx, sy in itertools.product((1, -1), repeat=2)]
SWAPPED = [(0, sx, sy, 0) for sx, sy in itertools.product((1, -1), repeat=2)]
BASE = np.array(quadrants(1)[0])
Picture = tuple[np.ndarray, tuple[int, int]]


def read_all(uri: Path | str) -> list[np.ndarray]:
    with open_source(str(uri)) as source:
        frames = list(source)
        assert frames[0].size == source.size
    return [frame.image for frame in frames]


def corners(image: np.ndarray) -> list[str]:
    """Names of the colours of the four quarters, row by row."""
    names = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
    names["yellow"] = (220, 220, 40)  # type: ignore[assignment]
    height, width = image.shape[:2]
    found = []
    for y, x in itertools.product((height * 3 // 8, height * 7 // 8), (width // 8, width * 7 // 8)):
        pixel = image[y, x].astype(int)
        found.append(min(names, key=lambda name: abs(pixel - names[name]).sum()))
    return found


@pytest.mark.parametrize("name", ["hflip.mp4", "exif2.jpg"])
def test_mirrored_cases_look_as_on_a_phone(name: str, tmp_path: Path) -> None:
    assert corners(read_all(CASES / name)[0]) == ["green", "red", "yellow", "blue"]
    if name.endswith("jpg"):
        (tmp_path / name).write_bytes((CASES / name).read_bytes())
        assert corners(read_all(tmp_path)[0]) == ["green", "red", "yellow", "blue"]


@needs_ffmpeg
@pytest.mark.parametrize("matrix", [*SIGNED, *SWAPPED], ids=str)
def test_display_matrix_is_applied_as_ffmpeg_does(
    matrix: tuple[int, int, int, int], tmp_path: Path
) -> None:
    path = set_matrix(write_raw(quadrants(), tmp_path / "v.mp4", "-c:v", "libx264"), *matrix)
    size = (WIDTH, HEIGHT) if matrix[0] == 0 else (HEIGHT, WIDTH)
    expected = shown(path, size)
    images = read_all(path)
    assert len(images) == len(expected) == 3
    assert np.abs(images[0].astype(int) - expected[0]).max() <= 3


@needs_ffmpeg
@pytest.mark.parametrize("angle", [45, 30, -60, 171])
def test_other_angles_turn_the_picture_within_its_frame(angle: float, tmp_path: Path) -> None:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    path = set_matrix(write_raw(quadrants(), tmp_path / "v.mp4", "-c:v", "libx264"), c, s, -s, c)
    expected = shown(path, (HEIGHT, WIDTH))[0].astype(int)
    found = read_all(path)[0].astype(int)
    # Both resample; edges of the quarters and of the picture differ by a pixel.
    assert (np.abs(found - expected).max(axis=2) > 24).mean() < 0.08
    inner = slice(HEIGHT // 2 - 8, HEIGHT // 2 + 8), slice(WIDTH // 2 - 8, WIDTH // 2 + 8)
    assert np.abs(found[inner].mean((0, 1)) - expected[inner].mean((0, 1))).max() < 12


@needs_ffmpeg
def test_zero_matrix_is_reported_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = set_matrix(write_raw(quadrants(), tmp_path / "v.mp4", "-c:v", "libx264"), 0, 0, 0, 0)
    assert corners(read_all(path)[0]) == ["red", "green", "blue", "yellow"]
    assert not caplog.records or "display matrix" in caplog.text


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("alone", [True, False], ids=["file", "folder"])
def test_exif_orientation_is_applied_as_pillow_does(
    kind: str, orientation: int, alone: bool, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow")
    from PIL import ImageOps

    exif = pillow.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(kind, {})
    path = tmp_path / f"a.{kind}"
    pillow.fromarray(BASE).save(path, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(pillow.open(path)).convert("RGB"))
    (image,) = read_all(path if alone else tmp_path)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 6


def test_wide_pixels_case_has_its_display_aspect() -> None:
    images = read_all(CASES / "sar.mp4")
    assert images[0].shape == (96, 320, 3)


@needs_ffmpeg
@pytest.mark.parametrize("ratio", ["16/15", "2/1", "1/2", "8/9", "40/33", "355/226"])
@pytest.mark.parametrize("turned", [False, True])
def test_pixel_aspect_is_applied_as_ffmpeg_does(ratio: str, turned: bool, tmp_path: Path) -> None:
    path = write_raw(quadrants(), tmp_path / "v.mp4", "-c:v", "libx264", "-vf", f"setsar={ratio}")
    over, under = map(int, ratio.split("/"))
    size = (HEIGHT, round(WIDTH * over / under))
    if turned:
        set_matrix(path, 0, 1, -1, 0)
        size = (size[1], size[0])
    found = read_all(path)[0]
    assert found.shape[:2] == size
    # ffmpeg resamples after it has turned; sizes and what stands where must agree.
    expected = shown(path, size, f"scale={size[1]}:{size[0]}:flags=bilinear,setsar=1")[0]
    assert (np.abs(found.astype(int) - expected).max(axis=2) > 40).mean() < 0.05


@needs_ffmpeg
def test_pixel_aspect_that_changes_in_mid_stream(tmp_path: Path) -> None:
    joined = tmp_path / "joined.h264"
    with joined.open("wb") as file:
        for ratio in ("1/1", "2/1", "16/15"):
            part = write_raw(
                quadrants(8),
                tmp_path / "part.h264",
                "-c:v",
                "libx264",
                "-bf",
                "0",
                "-vf",
                f"setsar={ratio}",
            )
            file.write(part.read_bytes())
    path = tmp_path / "joined.ts"
    times = "setts=ts=N/25/TB"
    ffmpeg("-f", "h264", "-r", "25", "-i", joined, "-c", "copy", "-bsf:v", times, path)
    widths = [image.shape[1] for image in read_all(path)]
    assert widths == [160] * 8 + [320] * 8 + [171] * 8


def brightness(images: np.ndarray) -> np.ndarray:
    return images.astype(float) @ (0.299, 0.587, 0.114)


def write_interlaced(path: Path, *arguments: str) -> Path:
    lavfi = ("-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate=50:duration=0.6")
    chain = ("-vf", "interlace=scan=tff", "-flags", "+ildct+ilme", "-pix_fmt", "yuv420p")
    ffmpeg(*lavfi, *chain, *arguments, path)
    return path


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_interlaced_pictures_are_deinterlaced_as_ffmpeg_does(codec: str, tmp_path: Path) -> None:
    extra = ("-x264-params", "tff=1") if codec == "libx264" else ("-top", "1")
    path = write_interlaced(tmp_path / "i.ts", "-c:v", codec, "-q:v", "2", *extra)
    expected = shown(path, (HEIGHT, WIDTH), "bwdif=mode=send_frame:deint=interlaced")
    woven = shown(path, (HEIGHT, WIDTH))
    images = np.stack(read_all(path))
    assert images.shape == expected.shape
    assert np.abs(images.astype(int) - expected).mean() < 1.0
    assert np.abs(images.astype(int) - woven).mean() > 1.5
    left = np.stack(read_all(f"{path}#deinterlace=no"))
    # ffmpeg brings chroma to full size field by field, so the lines are compared by brightness.
    assert np.abs(brightness(left) - brightness(woven)).mean() < 1.0
    assert np.abs(brightness(left) - brightness(images)).mean() > 1.0


@needs_ffmpeg
def test_progressive_pictures_are_left_alone(tmp_path: Path) -> None:
    path = write_raw(quadrants(6), tmp_path / "v.mp4", "-c:v", "libx264")
    with open_source(str(path)) as source:
        assert len(list(source)) == 6
        assert "deinterlaced" not in source.detail


def write_deep(path: Path, bits: int, stored: int) -> np.ndarray:
    ramp = np.linspace(0, (1 << bits) - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    values = np.dstack([ramp, ramp[::-1], ramp.T]) << stored
    cv2.imwrite(str(path), values[..., ::-1])
    return values


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_sixteen_bit_images_are_read_at_the_depth_that_they_show(
    bits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = write_deep(tmp_path / "a.png", bits, 0)
    (image,) = read_all(tmp_path)
    np.testing.assert_array_equal(image, values >> (bits - 8))
    assert (f"read as {bits}-bit" in caplog.text) == (bits < 16)
    kept = read_all(f"{tmp_path}#bits=16")[0]
    np.testing.assert_array_equal(kept, values >> 8)


def test_depth_is_judged_once_and_a_deeper_image_is_refused(tmp_path: Path) -> None:
    write_deep(tmp_path / "a.png", 10, 0)
    write_deep(tmp_path / "b.png", 12, 0)
    with pytest.raises(SourceError, match="more than 10 bits, as images before it had"):
        read_all(tmp_path)


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tiff"), np.ones((8, 8, 3), np.float32))
    with pytest.raises(SourceError, match="holds float32 values; expected 8 or 16 bits"):
        read_all(tmp_path)


def test_single_image_is_one_frame(tmp_path: Path) -> None:
    buffer = io.BytesIO(cv2.imencode(".png", BASE[..., ::-1])[1].tobytes())
    (tmp_path / "one.png").write_bytes(buffer.getvalue())
    with open_source(str(tmp_path / "one.png")) as source:
        assert source.frame_count == 1
        assert not source.live
        np.testing.assert_array_equal(next(iter(source)).image, BASE)


def test_title_that_is_not_utf8_plays() -> None:
    assert read_all(CASES / "latin.mp4")[0].shape == (64, 96, 3)

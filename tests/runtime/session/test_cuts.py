"""Scene cuts are seen where two clips are joined, and nowhere else."""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from streamseg.runtime.bundle.manifest import PolicySpec
from streamseg.runtime.session.cuts import LEAST, CutDetector
from streamseg.runtime.sources import open_source
from streamseg.runtime.sources.folder import read_image
from streamseg.runtime.video.resize import Image

SHARED = Path(os.environ.get("STREAMSEG_SHARED", "../shared"))


def scene(address: str, frames: int = 30) -> list[Image]:
    with open_source(f"synthetic:{address}&size=144x256&frames={frames}") as source:
        return [frame.image for frame in source]


def cuts(images: list[Image]) -> list[int]:
    detector = CutDetector(PolicySpec().scene_cut)
    return [index for index, image in enumerate(images) if detector.is_cut(image)]


def moving(seed: int, frames: int = 20) -> list[Image]:
    """Coloured blocks that a camera pans over, two pixels a frame, with sensor noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(30, 226, (3, 8, 3)).repeat(48, axis=0).repeat(48, axis=1)
    noise = random.normal(0, 4, (frames, 144, 256, 3))
    views = [blocks[:, 2 * i : 2 * i + 256] + noise[i] for i in range(frames)]
    return [np.clip(view, 0, 255).astype(np.uint8) for view in views]


def test_joined_clips_are_cut_at_the_joins_only() -> None:
    clips = [moving(1), scene("clean?seed=1"), moving(2), scene("clean?seed=4"), moving(3)]
    joins = np.cumsum([len(clip) for clip in clips])[:-1]
    assert cuts([image for clip in clips for image in clip]) == joins.tolist()


@pytest.mark.parametrize("preset", ["clean", "easy", "street", "hard"])
@pytest.mark.parametrize("disturbance", ["speed=7", "speed=40&sway=3", "flicker=1"])
def test_fast_movement_and_flicker_are_not_cuts(preset: str, disturbance: str) -> None:
    assert cuts(scene(f"{preset}?seed=5&{disturbance}", 40)) == []


def test_still_camera_sees_the_cut_and_a_flash_counts_once() -> None:
    still, other = moving(1)[:1] * 10, moving(2)[:1] * 10
    assert cuts(still + other) == [10]
    flash = [np.full_like(still[0], 250)]
    assert cuts(still + flash + still) == [10]


def test_first_frame_is_never_a_cut() -> None:
    first, second = moving(1), moving(2)
    for before in range(1, 6):
        assert cuts(first[:before] + second) == ([before] if before > LEAST else [])


def test_size_of_frames_hardly_matters() -> None:
    small, large = CutDetector(15.0), CutDetector(15.0)
    for image in moving(1, 3):
        small.is_cut(image)
        large.is_cut(image.repeat(5, axis=0).repeat(5, axis=1))
    assert large.score == pytest.approx(small.score, rel=0.1)


@pytest.mark.data
def test_real_footage_is_cut_at_the_joins_only() -> None:
    clip, folder = SHARED / "data/clips/highway_960x540.mp4", SHARED / "data/camvid/val"
    if not clip.exists() or not folder.is_dir():
        pytest.skip(f"no footage in {SHARED / 'data'}")
    with open_source(str(clip)) as source:
        highway = [frame.image for frame in source]
    street = [read_image(path) for path in sorted(folder.glob("*.jpg"))]
    for first, second in permutations((highway, street)):
        parts = [first[:50], second[:40], first[50:], second[40:]]
        joins = np.cumsum([len(part) for part in parts])[:-1]
        assert cuts([image for part in parts for image in part]) == joins.tolist()

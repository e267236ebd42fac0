import multiprocessing
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg import scenes
from streamseg.errors import SourceError
from streamseg.scenes import (
    PRESETS,
    SCENE_CLASSES,
    SceneConfig,
    SyntheticScene,
    parse_scene,
)

SMALL = replace(PRESETS["street"], height=64, width=128, seed=11)


def digest(config: SceneConfig, index: int) -> tuple[int, int]:
    image, labels = SyntheticScene(config).render(index)
    return zlib.crc32(image.tobytes()), zlib.crc32(labels.tobytes())


def test_scenes_export_their_public_names() -> None:
    assert all(hasattr(scenes, name) for name in scenes.__all__)


@pytest.mark.parametrize("preset", PRESETS)
def test_frame_is_the_same_in_order_and_at_random(preset: str) -> None:
    config = replace(PRESETS[preset], height=64, width=128, seed=3)
    walked = list(SyntheticScene(config).frames(40, 8))
    scene = SyntheticScene(config)
    for frame in reversed(walked):
        image, labels = scene.render(frame.index)
        np.testing.assert_array_equal(image, frame.image)
        np.testing.assert_array_equal(labels, frame.labels)


def test_frame_survives_eviction_from_the_cache() -> None:
    scene = SyntheticScene(SMALL)
    before = scene.render(5)
    for index in range(0, 40000, 800):
        scene.render(index)
    after = scene.render(5)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


def test_frame_is_the_same_in_another_process() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(digest, (SMALL, 77)) == digest(SMALL, 77)


def test_threads_share_a_scene() -> None:
    scene = SyntheticScene(SMALL)
    expected = [SyntheticScene(SMALL).render(index) for index in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for (image, labels), (want_image, want_labels) in zip(
            pool.map(scene.render, range(12)), expected, strict=True
        ):
            np.testing.assert_array_equal(image, want_image)
            np.testing.assert_array_equal(labels, want_labels)


def test_seeds_give_different_scenes() -> None:
    assert digest(SMALL, 0)[1] != digest(replace(SMALL, seed=12), 0)[1]


@pytest.mark.parametrize("index", [0, 123, 4567])
def test_labels_do_not_depend_on_light_weather_or_sensor(index: int) -> None:
    clean = replace(PRESETS["clean"], height=64, width=128, seed=11)
    image, labels = SyntheticScene(clean).render(index)
    spoilt = replace(PRESETS["hard"], height=64, width=128, seed=11, traffic=clean.traffic)
    hard_image, hard_labels = SyntheticScene(spoilt).render(index)
    np.testing.assert_array_equal(labels, hard_labels)
    assert np.abs(image.astype(int) - hard_image).mean() > 10


def test_sky_and_vegetation_look_as_labelled_in_clear_light() -> None:
    scene = SyntheticScene(replace(PRESETS["clean"], seed=4))
    for index in (0, 300, 900):
        image, labels = scene.render(index)
        inner = cv2.erode((labels == 8).astype(np.uint8), np.ones((5, 5))) > 0
        red, green, blue = image[inner].mean(axis=0)
        assert green > red
        assert green > blue
        inner = cv2.erode((labels == 10).astype(np.uint8), np.ones((5, 5))) > 0
        assert image[inner].mean() > image[labels == 0].mean() + 20


def test_every_class_occurs_and_no_other() -> None:
    counts = np.zeros(256, dtype=np.int64)
    scene = SyntheticScene(replace(SMALL, height=128, width=256))
    for index in range(0, 3000, 60):
        counts += np.bincount(scene.render(index)[1].ravel(), minlength=256)
    assert set(np.flatnonzero(counts)) == set(SCENE_CLASSES)
    share = counts / counts.sum()
    assert min(share[list(SCENE_CLASSES)]) > 0.001
    assert share.max() < 0.6


def test_camera_and_objects_move_slowly() -> None:
    scene = SyntheticScene(replace(SMALL, height=128, width=256))
    labels = [frame.labels for frame in scene.frames(100, 10)]
    near = np.mean(labels[0] != labels[1])
    far = np.mean(labels[0] != labels[9])
    assert 0.001 < near < 0.15
    assert far > near


def test_objects_move_while_the_camera_stands() -> None:
    still = replace(PRESETS["clean"], height=128, width=256, seed=2, speed=0.0, sway=0.0)
    scene = SyntheticScene(still)
    first, second = scene.render(0)[1], scene.render(25)[1]
    moved = np.mean(first != second)
    assert 0.001 < moved < 0.3
    np.testing.assert_array_equal(first[:8] == 10, second[:8] == 10)


def test_damage_is_independent_from_frame_to_frame() -> None:
    still = replace(SMALL, speed=0.0, sway=0.0, traffic=0.0, rain=0.0)
    clean = replace(
        still, noise=0.0, loss=0.0, smear=0.0, glare=0.0, blur=0.0, flicker=0.0, quality=0
    )
    truth, damaged = SyntheticScene(clean), SyntheticScene(still)
    errors = [
        (damaged.render(index)[0].astype(float) - truth.render(index)[0]) for index in range(24)
    ]
    alone = np.mean([np.abs(error).mean() for error in errors])
    averaged = np.abs(np.median(errors, axis=0)).mean()
    assert averaged < 0.5 * alone


@settings(max_examples=25)
@given(
    height=st.integers(32, 150),
    width=st.integers(32, 200),
    seed=st.integers(0, 2**63 - 1),
    index=st.integers(0, 10**7),
    preset=st.sampled_from(sorted(PRESETS)),
)
def test_any_size_seed_and_time_renders(
    height: int, width: int, seed: int, index: int, preset: str
) -> None:
    config = replace(PRESETS[preset], height=height, width=width, seed=seed)
    image, labels = SyntheticScene(config).render(index)
    assert image.shape == (height, width, 3)
    assert labels.shape == (height, width)
    assert image.dtype == labels.dtype == np.uint8
    assert image.flags.c_contiguous
    assert set(np.unique(labels)) <= set(SCENE_CLASSES)


def test_frames_end_at_the_configured_count() -> None:
    scene = SyntheticScene(replace(SMALL, frames=3, fps=10.0))
    assert [(frame.index, frame.timestamp) for frame in scene.frames()] == [
        (0, 0.0),
        (1, 0.1),
        (2, 0.2),
    ]
    with pytest.raises(SourceError, match="no frame 3; expected 0 to 2"):
        scene.render(3)
    with pytest.raises(SourceError, match="no frame -1"):
        scene.render(-1)


def test_presets_are_frozen() -> None:
    values = repr({name: astuple(config) for name, config in PRESETS.items()})
    pinned = (scenes.SCENES_VERSION, zlib.crc32(values.encode()))
    assert pinned == (2, PRESETS_CRC), "a changed preset needs a new SCENES_VERSION"


PRESETS_CRC = 3181849593


def test_address_names_a_scene() -> None:
    config = parse_scene("synthetic:street?seed=7&size=128x256&fps=12.5&frames=9&noise=3")
    expected = replace(
        PRESETS["street"], seed=7, height=128, width=256, fps=12.5, frames=9, noise=3.0
    )
    assert config == expected
    assert parse_scene("synthetic:") == PRESETS["street"]
    assert parse_scene("synthetic:hard?daylight=0.2-0.4").daylight == (0.2, 0.4)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:street", "is not a synthetic scene"),
        ("synthetic", "is not a synthetic scene"),
        ("synthetic:town", "no preset 'town'; expected one of clean, easy, street, hard"),
        ("synthetic:street?sead=1", "no option 'sead'"),
        ("synthetic:street?seed", "expected options as in"),
        ("synthetic:street?seed=1.5", "expected a whole number"),
        ("synthetic:street?noise=much", "expected a number"),
        ("synthetic:street?size=256", "expected e.g. size=256x512"),
        ("synthetic:street?seed=1&seed=2", "seed is given twice"),
        ("synthetic:street?size=8x8", "height is 8; expected 32 to 4096"),
        ("synthetic:street?fps=nan", "fps is nan"),
        ("synthetic:street?seed=-1", "seed is -1"),
        ("synthetic:street?daylight=0.9-0.1", "daylight is 0.9 to 0.1"),
    ],
)
def test_address_with_a_mistake_is_refused(address: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        parse_scene(address)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamseg.training.augmentation import Augmentation, Tone, erase
from streamseg.training.config import ClipConfig

PLAIN = ClipConfig(crop=(24, 40), scale=(1.0, 1.0), flip=0.0, photometric=False)


def draw(config: ClipConfig, size: tuple[int, int], seed: int = 0) -> Augmentation:
    return Augmentation.draw(config, size, np.random.default_rng(seed))


def checker(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    label = np.random.default_rng(1).integers(0, 200, (height, width), dtype=np.uint8)
    return np.repeat(label[..., None], 3, axis=2), label


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crop_and_flip_move_image_and_label_alike(flip):
    image, label = checker(48, 80)
    cut, truth = draw(replace(PLAIN, flip=flip), (48, 80)).apply(image, label)
    assert cut.shape == (24, 40, 3)
    np.testing.assert_array_equal(cut[..., 1], truth)
    source = label[:, ::-1] if flip else label
    windows = np.lib.stride_tricks.sliding_window_view(source, (24, 40))
    assert (windows == truth).all((2, 3)).any()


def test_resize_keeps_image_and_label_together():
    label = np.zeros((32, 64), np.uint8)
    label[8:24, 16:40] = 200
    image = np.repeat(label[..., None], 3, axis=2)
    for seed in range(8):
        config = replace(PLAIN, scale=(0.6, 1.7), crop=(60, 110))
        big, truth = draw(config, (32, 64), seed).apply(image, label)
        agree = (big[..., 0] > 100) == (truth == 200)
        inside = truth != 255
        assert agree[inside].mean() > 0.98
        assert set(np.unique(truth)) <= {0, 200, 255}


def test_all_frames_of_a_clip_share_one_draw():
    image, label = checker(48, 80)
    change = draw(replace(PLAIN, scale=(0.5, 2.0), flip=0.5, photometric=True), (48, 80), 5)
    first, again = change.apply(image, label), change.apply(image.copy(), label.copy())
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_padding_is_ignored_and_neutral():
    image, label = checker(16, 16)
    padded, truth = draw(replace(PLAIN, ignore_index=250), (16, 16)).apply(image, label)
    assert (truth[16:] == 250).all()
    assert (truth[:, 16:] == 250).all()
    assert (padded[16:] == (124, 116, 104)).all()
    np.testing.assert_array_equal(truth[:16, :16], label)


def test_unlabelled_frame_is_all_ignored():
    image, _ = checker(48, 80)
    _, truth = draw(PLAIN, (48, 80)).apply(image, None)
    assert (truth == 255).all()


def test_label_of_another_size_is_brought_to_the_images():
    image = np.zeros((48, 80, 3), np.uint8)
    image[:, 40:] = 255
    label = np.zeros((12, 20), np.uint8)
    label[:, 10:] = 1
    cut, truth = draw(PLAIN, (48, 80)).apply(image, label)
    np.testing.assert_array_equal(cut[..., 0] > 0, truth == 1)


def test_tone_changes_colours_by_the_given_factors():
    grey = np.full((2, 2, 3), 100, np.uint8)
    assert (Tone(gain=1.5, offset=-20).apply(grey) == 130).all()
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert (Tone(hue=60).apply(red) == (0, 200, 0)).all()
    assert (Tone(saturation=0.0).apply(red) == 200).all()
    assert Tone().apply(red) is red


def test_erased_frames_lose_one_rectangle_and_the_first_stays_whole() -> None:
    frames = np.random.default_rng(0).integers(1, 100, (200, 16, 24, 3), np.uint8)
    erased = frames.copy()
    erase(erased, 0.5, np.random.default_rng(1))
    assert np.array_equal(erased[0], frames[0])
    changed = (erased != frames).any(-1)
    hit = changed.any((1, 2))
    assert 0.4 < hit.mean() < 0.6
    for frame, lost in zip(erased[hit], changed[hit], strict=True):
        rows, columns = np.flatnonzero(lost.any(1)), np.flatnonzero(lost.any(0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        assert lost[box].all()
        assert (frame[box] == (124, 116, 104)).all()
        assert 4 <= len(rows) <= 12
        assert 6 <= len(columns) <= 18
    again = frames.copy()
    erase(again, 0.5, np.random.default_rng(1))
    assert np.array_equal(again, erased)

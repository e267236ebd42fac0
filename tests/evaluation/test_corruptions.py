"""Corrupted frames: seeded, stronger with severity, of the published strength where it has one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from streamseg.cli.main import run
from streamseg.errors import DatasetError
from streamseg.evaluation.corruptions import CORRUPTIONS, Corruption, corrupt_dataset
from streamseg.evaluation.datasets import open_dataset

GREY = np.full((64, 96, 3), 128, np.uint8)


def picture() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, (64, 96, 3))
    smooth = ndimage.gaussian_filter(noise, (2, 2, 0))
    return (127 + 90 * smooth / np.abs(smooth).max()).astype(np.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_equal_seeds_give_equal_frames_and_severity_makes_them_worse(kind: str) -> None:
    image = picture()
    first = Corruption(kind, 3).apply(image, "clip", 4)
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, Corruption(kind, 3).apply(image, "clip", 4))
    errors = [
        float(((Corruption(kind, s).apply(image, "clip", 0) / 255 - image / 255) ** 2).mean())
        for s in (1, 5)
    ]
    assert 0 < errors[0] < errors[1]


@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise", "impulse_noise", "snow"])
def test_noise_is_new_in_every_frame_and_under_every_seed(kind: str) -> None:
    corruption = Corruption(kind, 2)
    frames = [corruption.apply(GREY, "a", i) for i in (0, 1)]
    assert (frames[0] != frames[1]).any()
    assert (Corruption(kind, 2, seed=1).apply(GREY, "a", 0) != frames[0]).any()


@pytest.mark.parametrize("kind", ["fog", "motion_blur"])
def test_weather_and_motion_stay_for_a_clip(kind: str) -> None:
    corruption, image = Corruption(kind, 3), picture()
    np.testing.assert_array_equal(corruption.apply(image, "a", 0), corruption.apply(image, "a", 9))
    assert (corruption.apply(image, "b", 0) != corruption.apply(image, "a", 0)).any()


def test_noise_has_the_published_strength() -> None:
    noisy = Corruption("gaussian_noise", 2).apply(np.full((300, 300, 3), 128, np.uint8), "a", 0)
    assert np.std(noisy / 255) == pytest.approx(0.12, rel=0.02)
    salted = Corruption("impulse_noise", 1).apply(np.full((300, 300, 3), 128, np.uint8), "a", 0)
    assert (salted != 128).mean() == pytest.approx(0.03, rel=0.1)


def test_blur_contrast_and_jpeg_are_those_of_scipy_and_pillow(tmp_path: Path) -> None:
    image = picture()
    blurred = Corruption("gaussian_blur", 2).apply(image, "a", 0)
    expected = ndimage.gaussian_filter(image / 255, (2, 2, 0), mode="mirror", truncate=4)
    assert np.abs(blurred / 255 - expected).max() < 0.01
    flat = Corruption("contrast", 3).apply(image, "a", 0) / 255
    mean = (image / 255).mean((0, 1))
    assert np.abs(flat - ((image / 255 - mean) * 0.2 + mean)).max() <= 0.51 / 255
    path = tmp_path / "x.jpg"
    Image.fromarray(image).save(path, quality=15, subsampling="4:2:0")
    got = Corruption("jpeg", 3).apply(image, "a", 0).astype(int)
    assert np.abs(got - np.asarray(Image.open(path)).astype(int)).mean() < 2


def test_labels_stay_and_the_notes_list_the_corruption(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "val")
    corrupted = corrupt_dataset(dataset, Corruption.parse("fog:4:7"))
    before, after = dataset.clips[0][3], corrupted.clips[0][3]
    np.testing.assert_array_equal(before.label, after.label)
    assert (before.image != after.image).any()
    assert corrupted.notes == ("frames are corrupted: fog, severity 4 of 5, seed 7",)
    whole = list(corrupted.clips[0])
    np.testing.assert_array_equal(whole[3].image, corrupted.clips[0][-17].image)
    assert (corrupted.frame_count, corrupted.label_count) == (20, 20)


@pytest.mark.parametrize("text", ["fog", "fog:x", "rain:1", "fog:1:2:3"])
def test_unknown_corruption_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match=r"expected KIND:SEVERITY\[:SEED\] such as fog:3"):
        Corruption.parse(text)
    with pytest.raises(DatasetError, match="the severity is 1 to 5"):
        Corruption.parse("fog:6")


def test_footage_cannot_be_corrupted(tmp_path: Path) -> None:
    from tests.evaluation.test_datasets import write_video

    write_video(tmp_path / "a.mp4", 3)
    with pytest.raises(DatasetError, match="is a video"):
        corrupt_dataset(open_dataset(f"footage:{tmp_path}"), Corruption("fog", 1))


def test_command_scores_corrupted_frames(bundle: Path, camvid: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    with pytest.raises(SystemExit) as code:
        run(["eval", str(bundle), "--dataset", f"camvid:{camvid}", "--split", "train",
             "--corrupt", "gaussian_noise:5", "--json", str(out)])  # fmt: skip
    assert code.value.code == 0
    content = json.loads(out.read_text())
    assert content["notes"] == ["frames are corrupted: gaussian_noise, severity 5 of 5, seed 0"]

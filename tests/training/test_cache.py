from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import open_dataset
from streamseg.training.cache import cache_frames
from streamseg.training.clip_sampler import count_classes
from tests.runtime.clips import small_disk
from tests.training.small import ArrayClip, make_dataset


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_frames_are_the_datasets(tmp_path, workers):
    dataset = open_dataset("synthetic:easy?size=32x64&scenes=3&frames=3", "train")
    for _ in range(2):  # written, then found
        cached = cache_frames(dataset, tmp_path / "cache", workers=workers)
        assert [clip.name for clip in cached.clips] == [clip.name for clip in dataset.clips]
        for clip, kept in zip(dataset.clips, cached.clips, strict=True):
            for frame, copy in zip(clip, kept, strict=True):
                np.testing.assert_array_equal(frame.image, copy.image)
                np.testing.assert_array_equal(frame.label, copy.label)
                assert frame.time == copy.time


def test_missing_labels_stay_missing(tmp_path):
    dataset = make_dataset(ArrayClip("a", frames=3, unlabelled=frozenset({1})))
    (clip,) = cache_frames(dataset, tmp_path / "cache").clips
    assert clip.labelled_frames() == [0, 2]
    assert [frame.label is None for frame in clip] == [False, True, False]


def test_classes_of_cached_frames_are_counted_without_their_images(tmp_path):
    dataset = make_dataset(ArrayClip("a", unlabelled=frozenset({1})), ArrayClip("bb"))
    cached = cache_frames(dataset, tmp_path / "cache")
    clips = [replace(clip, images=None) for clip in cached.clips]
    counted = count_classes(replace(cached, clips=clips), ignore_index=255, most=None)
    labels = [frame.label for clip in dataset.clips for frame in clip if frame.label is not None]
    np.testing.assert_array_equal(counted, np.bincount(np.ravel(labels), minlength=4))


def test_cache_of_another_dataset_is_refused(tmp_path):
    cache_frames(make_dataset(ArrayClip("a")), tmp_path / "cache")
    with pytest.raises(TrainingError, match=r"another dataset \(other clips\)"):
        cache_frames(make_dataset(ArrayClip("b")), tmp_path / "cache")


def test_cache_leaves_foreign_folders_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(TrainingError, match="not empty"):
        cache_frames(make_dataset(), tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_interrupted_cache_is_rebuilt(tmp_path):
    class BrokenClip(ArrayClip):
        def __getitem__(self, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        cache_frames(make_dataset(BrokenClip("a")), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    cached = cache_frames(make_dataset(ArrayClip("a")), tmp_path / "cache")
    assert cached.frame_count == 6


def test_cache_on_a_full_disk_leaves_nothing(tmp_path):
    with small_disk(tmp_path / "disk", 40) as disk:
        with pytest.raises(TrainingError, match=r"cannot write .*/cache: No space left"):
            cache_frames(make_dataset(), disk / "cache")
        assert list(disk.iterdir()) == []


def test_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cache").write_text("dear")
    with pytest.raises(TrainingError, match="holds no frame cache"):
        cache_frames(make_dataset(), tmp_path / "cache")


def test_frames_of_several_sizes_are_refused(tmp_path):
    class WideClip(ArrayClip):
        def __getitem__(self, index):
            frame = super().__getitem__(index)
            return replace(frame, image=np.zeros((32, 80, 3), np.uint8))

    with pytest.raises(TrainingError, match=r"takes one size"):
        cache_frames(make_dataset(ArrayClip("a"), WideClip("b")), tmp_path / "cache")

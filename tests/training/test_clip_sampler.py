from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import Dataset, open_dataset
from streamseg.training.clip_sampler import ClipSampler, count_classes, iterate_batches
from streamseg.training.config import ClipConfig
from tests.evaluation.trees import make_camvid, make_cityscapes, make_vspw
from tests.training.small import CLASSES, ArrayClip, make_dataset

PLAIN = ClipConfig(
    offsets=(-2, 0), batch=4, crop=(32, 64), scale=(1.0, 1.0), flip=0.0, photometric=False
)


def test_clips_end_in_labelled_frames_that_have_all_before_them():
    clip = ArrayClip("a", frames=6, unlabelled=frozenset({0, 4}))
    sampler = ClipSampler(make_dataset(clip), PLAIN, seed=0)
    assert len(sampler) == 3  # frames 2, 3, 5
    for position in range(3):
        sampler.sample(position)
    pairs = list(zip(clip.reads[::2], clip.reads[1::2], strict=True))
    assert sorted(pairs) == [(0, 2), (1, 3), (3, 5)]


def test_frames_and_labels_are_those_of_the_clip_in_order():
    clip = ArrayClip("a", frames=3, unlabelled=frozenset({0}))
    frames, labels = ClipSampler(make_dataset(clip), PLAIN, seed=0).sample(0)
    np.testing.assert_array_equal(frames, [clip[0].image, clip[2].image])
    assert (labels[0] == 255).all()
    np.testing.assert_array_equal(labels[1], clip[2].label)


def test_every_clip_comes_once_an_epoch_and_the_order_changes():
    clip = ArrayClip("a", frames=12)
    sampler = ClipSampler(make_dataset(clip), replace(PLAIN, offsets=(0,)), seed=0)
    for position in range(24):
        sampler.sample(position)
    first, second = clip.reads[:12], clip.reads[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_batches_of_processes_equal_the_batch_of_one():
    config = replace(PLAIN, scale=(0.7, 1.5), flip=0.5, photometric=True)
    sampler = ClipSampler(make_dataset(), config, seed=4)
    whole = sampler.batch(5)
    parts = [sampler.batch(5, rank=rank, world=2) for rank in (0, 1)]
    joined = torch.stack([part.frames for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(joined, whole.frames)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_start_anywhere_and_are_the_same(workers):
    sampler = ClipSampler(make_dataset(), PLAIN, seed=4)
    run = list(iterate_batches(sampler, range(3, 6), rank=0, world=1, workers=workers))
    assert len(run) == 3
    assert torch.equal(run[2].frames, sampler.batch(5).frames)
    assert torch.equal(run[2].labels, sampler.batch(5).labels)
    assert not torch.equal(run[0].frames, run[1].frames)


def test_label_outside_the_classes_is_refused_with_its_place():
    sampler = ClipSampler(make_dataset(ArrayClip("a", wrong=9)), PLAIN, seed=0)
    with pytest.raises(TrainingError, match=r"clip a frame a_\d: label 9 is outside the 4 classes"):
        sampler.batch(0)
    ignoring = ClipSampler(
        make_dataset(ArrayClip("a", wrong=9)), replace(PLAIN, ignore_index=9), seed=0
    )
    ignoring.batch(0)


def test_clips_shorter_than_the_offsets_are_refused():
    with pytest.raises(TrainingError, match=r"9 frames before it.*longest clip has 6"):
        ClipSampler(make_dataset(), replace(PLAIN, offsets=(-9, 0)), seed=0)


def test_dataset_without_labelled_frames_is_refused():
    with pytest.raises(TrainingError, match="is empty"):
        ClipSampler(
            make_dataset(ArrayClip("a", frames=2, unlabelled=frozenset({0, 1}))), PLAIN, seed=0
        )
    nothing = Dataset("array", Path(), "train", (), CLASSES)
    with pytest.raises(TrainingError, match="is empty"):
        ClipSampler(nothing, PLAIN, seed=0)
    with pytest.raises(TrainingError, match="has no labels"):
        ClipSampler(replace(nothing, classes=()), PLAIN, seed=0)


def test_classes_are_counted_without_what_is_ignored():
    clip = ArrayClip("a", frames=2, wrong=255)
    counts = count_classes(make_dataset(clip), ignore_index=255)
    expected = np.zeros(4, np.int64)
    for frame in clip:
        expected += np.bincount(frame.label[frame.label < 255], minlength=4)
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == 2 * (32 * 64 - 1)


@pytest.mark.parametrize(
    ("make", "name", "offsets"),
    [
        (make_camvid, "camvid", (0,)),
        (make_cityscapes, "cityscapes", (-9, -6, -3, 0)),
        (make_vspw, "vspw", (-1, 0)),
    ],
)
def test_published_datasets_give_clips(make, name, offsets, tmp_path):
    dataset = open_dataset(f"{name}:{make(tmp_path)}", "val")
    config = replace(PLAIN, offsets=offsets, batch=2)
    batch = ClipSampler(dataset, config, seed=0).batch(0)
    assert batch.frames.shape == (2, len(offsets), 32, 64, 3)
    known = batch.labels[batch.labels != 255]
    assert len(known)
    assert int(known.max()) < len(dataset.classes)

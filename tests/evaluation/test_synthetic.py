"""Synthetic scenes as a dataset."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import IndexedClip, open_dataset
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.synthetic import SPLIT_SEEDS
from streamseg.scenes import SCENE_CLASSES

SMALL = "synthetic:easy?size=32x64&scenes=3&frames=4"


def test_every_frame_is_labelled_and_can_be_had_in_any_order():
    dataset = open_dataset(SMALL, "val")
    assert (dataset.frame_count, dataset.label_count) == (12, 12)
    assert dataset.classes == classes.CITYSCAPES
    clip = dataset.clips[1]
    assert isinstance(clip, IndexedClip)
    assert (clip.name, clip.fps) == ("easy_1000001", 25.0)
    frames = list(clip)
    assert [frame.time for frame in frames] == [0.0, 0.04, 0.08, 0.12]
    for index in (3, 0, -2):
        again = clip[index]
        np.testing.assert_array_equal(again.image, frames[index].image)
        np.testing.assert_array_equal(again.label, frames[index].label)
    assert set(np.unique(frames[0].label)) <= set(SCENE_CLASSES)
    with pytest.raises(IndexError):
        clip[4]


def test_splits_share_no_scene():
    seeds = {
        split: {clip.config.seed for clip in open_dataset(SMALL, split).clips}
        for split in SPLIT_SEEDS
    }
    assert sorted(map(len, seeds.values())) == [3, 3, 3]
    assert len(set.union(*seeds.values())) == 9
    moved = open_dataset(SMALL + "&seed=3", "train")
    assert {clip.config.seed for clip in moved.clips} == {3, 4, 5}


def test_scenes_and_frames_have_defaults():
    dataset = open_dataset("synthetic:", "val")
    assert (len(dataset.clips), dataset.frame_count) == (20, 1200)


@pytest.mark.parametrize(
    ("address", "split", "words"),
    [
        (SMALL, "dev", "no split 'dev'"),
        ("synthetic:street?scenes=0", "val", "scenes is '0'"),
        ("synthetic:street?scenes=2&scenes=3", "val", "one whole number"),
        ("synthetic:street?scenes=2&size=banana", "val", "expected e.g. size=256x512"),
        ("synthetic:night", "val", "no preset 'night'"),
        ("synthetic:street?seed=999990&scenes=20", "train", "leave the split's 1000000 seeds"),
    ],
)
def test_wrong_address_is_refused(address, split, words):
    with pytest.raises(DatasetError, match=words):
        open_dataset(address, split)

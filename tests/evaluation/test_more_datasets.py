"""KITTI-360, ApolloScape, BDD100K, NYUDv2 and ADE20K in their layouts, on tiny trees."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets import open_dataset
from tests.evaluation.trees import (
    make_ade20k,
    make_apolloscape,
    make_bdd100k,
    make_kitti360,
    make_nyudv2,
)

MAKERS: dict[str, Callable[[Path], Path]] = {
    "kitti360": make_kitti360,
    "apolloscape": make_apolloscape,
    "bdd100k": make_bdd100k,
    "nyudv2": make_nyudv2,
    "ade20k": make_ade20k,
}
VALIDATION = {"nyudv2": "test"}


def values(name: str, root: Path, split: str = "val") -> list[int]:
    label = open_dataset(f"{name}:{root}", split).clips[0][0].label
    assert label is not None
    return [int(value) for value in np.unique(label)]


def test_kitti360_clips_are_runs_of_consecutive_frames(tmp_path: Path) -> None:
    dataset = open_dataset(f"kitti360:{make_kitti360(tmp_path)}", "train")
    assert [(clip.name, clip.frame_count) for clip in dataset.clips] == [
        ("2013_05_28_drive_0000_sync/image_00/0000000250", 4),
        ("2013_05_28_drive_0000_sync/image_00/0000000300", 3),
    ]
    assert dataset.label_count == 7
    assert dataset.clips[1][1].name == "0000000301"
    # road, car; garage is building, gate fence, small pole pole; stop and unknown object are void
    assert values("kitti360", tmp_path) == sorted([0, 13, 2, 4, 5, 255])


def test_apolloscape_clips_are_cameras_in_the_order_of_time(tmp_path: Path) -> None:
    dataset = open_dataset(f"apolloscape:{make_apolloscape(tmp_path)}", "train")
    assert [clip.name for clip in dataset.clips] == [
        "road01_ins/ColorImage/Record001/Camera 5",
        "road01_ins/ColorImage/Record001/Camera 6",
    ]
    times = [frame.time for frame in dataset.clips[0]]
    assert times == pytest.approx([0.0, 0.02, 0.04])
    assert dataset.clips[0].fps == pytest.approx(50)
    names = [entry.name for entry in classes.APOLLOSCAPE]
    assert values("apolloscape", tmp_path) == sorted(
        [names.index("car"), names.index("road"), names.index("sky"), 255]
    )


@pytest.mark.parametrize("first_release", [False, True])
def test_bdd100k_in_both_layouts(tmp_path: Path, first_release: bool) -> None:
    root = make_bdd100k(tmp_path, first_release=first_release)
    dataset = open_dataset(f"bdd100k:{root}", "val")
    assert (len(dataset.clips), dataset.frame_count, dataset.label_count) == (3, 3, 3)
    assert values("bdd100k", root) == [0, 13, 18, 255]
    with pytest.raises(DatasetError, match="3 of 3 label maps are missing"):
        open_dataset(f"bdd100k:{root}", "test")
    assert open_dataset(f"bdd100k:{root}", "test", labels=False).frame_count == 3


def test_nyudv2_lists_may_name_images_pairs_or_numbers(tmp_path: Path) -> None:
    root = make_nyudv2(tmp_path)
    dataset = open_dataset(f"nyudv2:{root}", "test")
    assert [clip.name for clip in dataset.clips] == ["1", "2", "4"]
    assert values("nyudv2", root, "test") == [0, 39, 255]
    (root / "test.txt").write_text("RGB/1.jpg\nRGB/77.jpg\n")
    with pytest.raises(DatasetError, match=r"1 of 2 images .* the first is .*RGB/77"):
        open_dataset(f"nyudv2:{root}", "test")


def test_ade20k_names_come_from_its_table(tmp_path: Path) -> None:
    root = make_ade20k(tmp_path)
    dataset = open_dataset(f"ade20k:{root}", "val")
    names = [entry.name for entry in dataset.classes]
    assert (len(names), names[:2], names[-2:]) == (
        150,
        ["wall", "building"],
        ["screen 149", "screen 150"],
    )
    assert values("ade20k", root) == [0, 1, 149, 255]
    (root / "objectInfo150.txt").unlink()
    with pytest.raises(DatasetError, match="table of class names"):
        open_dataset(f"ade20k:{root}", "val")


@pytest.mark.parametrize("name", MAKERS)
def test_wrong_split_is_refused_and_names_the_splits(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=f"{name} has no split 'dev': expected one of train"):
        open_dataset(f"{name}:{MAKERS[name](tmp_path)}", "dev")


@pytest.mark.parametrize("name", MAKERS)
def test_missing_label_and_empty_tree_are_named(tmp_path: Path, name: str) -> None:
    root, split = MAKERS[name](tmp_path / "tree"), VALIDATION.get(name, "val")
    clip = open_dataset(f"{name}:{root}", split).clips[0]
    label = clip.stills[0].label  # type: ignore[attr-defined]
    label.unlink()
    with pytest.raises(DatasetError, match=r"1 of .* label maps are missing") as error:
        open_dataset(f"{name}:{root}", split)
    assert str(label) in str(error.value)
    assert open_dataset(f"{name}:{root}", split, labels=False).label_count == 0
    shutil.rmtree(root)
    root.mkdir()
    with pytest.raises(DatasetError, match=f"^{name}: "):
        open_dataset(f"{name}:{root}", split)


def test_tables_of_classes_are_distinct() -> None:
    assert (len(classes.APOLLOSCAPE), len(classes.NYUDV2)) == (22, 40)
    for table in (classes.APOLLOSCAPE, classes.NYUDV2):
        assert len({entry.name for entry in table}) == len(table)
        assert len({entry.color for entry in table}) == len(table)

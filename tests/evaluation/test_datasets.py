"""Each dataset in its real layout, and what is said about trees that are not whole."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets import open_dataset, require_labelled_pixels
from tests.conftest import SHARED
from tests.evaluation.trees import (
    CITYSCAPES_LABELED,
    label_map,
    make_camvid,
    make_cityscapes,
    make_vspw,
    write_image,
    write_label,
)


def test_cityscapes_sequences_are_clips_of_30_with_the_label_on_the_20th(tmp_path):
    dataset = open_dataset(f"cityscapes:{make_cityscapes(tmp_path)}", "val")
    assert [clip.name for clip in dataset.clips] == [
        f"{city}_{drive:06d}_{frame:06d}" for city, drive, frame in CITYSCAPES_LABELED
    ]
    assert (dataset.frame_count, dataset.label_count) == (120, 4)
    frames = list(dataset.clips[2])
    assert [i for i, frame in enumerate(frames) if frame.label is not None] == [19]
    assert frames[19].name == "bochum_000000_000313_leftImg8bit"
    assert frames[0].image.shape == (12, 20, 3)
    assert frames[17].time == 1.0
    expected = label_map([0, 13, 255, 18, 255, 255])  # road car unlabelled bicycle void plate
    np.testing.assert_array_equal(frames[19].label, expected)
    assert len(dataset.classes) == 19


def test_cityscapes_without_labels_cuts_runs_into_clips(tmp_path):
    dataset = open_dataset(f"cityscapes:{make_cityscapes(tmp_path, labels=False)}", labels=False)
    assert [len(list(clip)) for clip in dataset.clips] == [30] * 4
    assert dataset.label_count == 0


def test_cityscapes_singles(tmp_path):
    dataset = open_dataset(f"cityscapes:{make_cityscapes(tmp_path, sequences=False)}")
    assert (dataset.frame_count, dataset.label_count, len(dataset.clips)) == (4, 4, 4)


def test_cityscapes_images_are_rgb(tmp_path):
    make_cityscapes(tmp_path, sequences=False)
    path = next((tmp_path / "leftImg8bit/val/aachen").iterdir())
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 2] = 200  # OpenCV writes blue, green, red
    write_label(path, image)
    first = next(iter(open_dataset(f"cityscapes:{tmp_path}", labels=False).clips[0]))
    assert first.image[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("labels", [True, False])
def test_cityscapes_half_downloaded_names_the_missing_frame(tmp_path, labels):
    make_cityscapes(tmp_path)
    gone = tmp_path / "leftImg8bit_sequence/val/aachen/aachen_000001_000029_leftImg8bit.png"
    gone.unlink()
    with pytest.raises(DatasetError, match="1 of") as error:
        open_dataset(f"cityscapes:{tmp_path}", labels=labels)
    assert str(gone) in str(error.value)


def test_cityscapes_without_ground_truth_names_the_folder_and_archive(tmp_path):
    make_cityscapes(tmp_path, labels=False)
    with pytest.raises(DatasetError, match=r"gtFine/val.*gtFine_trainvaltest\.zip"):
        open_dataset(f"cityscapes:{tmp_path}")


def test_cityscapes_single_without_label_is_named(tmp_path):
    make_cityscapes(tmp_path, sequences=False)
    next((tmp_path / "gtFine/val/bochum").glob("*313_gtFine_labelIds.png")).unlink()
    with pytest.raises(DatasetError, match="bochum_000000_000313_leftImg8bit"):
        open_dataset(f"cityscapes:{tmp_path}")


def relabel(root: Path, values: list[int], suffix: str = "labelIds") -> None:
    """Write other label maps into a tree."""
    for path in sorted(root.glob("gtFine/*/*/*_gtFine_labelIds.png")):
        path.unlink()
        write_label(path.with_name(path.name.replace("labelIds", suffix)), label_map(values))


VOID_ONLY = [0, 1, 2, 3]


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize(
    ("values", "suffix", "expected", "note"),
    [
        ([7, 26, 33, 0], "labelIds", [0, 13, 18, 255], None),
        ([0, 13, 18, 255], "labelTrainIds", [0, 13, 18, 255], None),
        ([0, 13, 18, 255], "labelIds", [0, 13, 18, 255], "read as train ids: they hold 255"),
        ([0, 13, 18, 9], "labelIds", [0, 13, 18, 9], "% of pixels would be void label ids"),
        ([7, 26, 33, 0], "labelTrainIds", [0, 13, 18, 255], "read as label ids: they hold values"),
        ([7, 8, 11, 0], "labelIds", [0, 1, 2, 255], "read as label ids: by their name alone"),
        ([0, 1, 2, 3], "labelTrainIds", [0, 1, 2, 3], "read as train ids: by their name alone"),
        (VOID_ONLY, "labelIds", [255, 255, 255, 255], "read as label ids: by their name alone"),
    ],
)
def test_cityscapes_label_ids_and_train_ids_are_distinguished(
    tmp_path, sequences, values, suffix, expected, note
):
    root = make_cityscapes(tmp_path, sequences=sequences)
    relabel(root, values, suffix)
    dataset = open_dataset(f"cityscapes:{root}", "val")
    labels = [frame.label for clip in dataset.clips for frame in clip if frame.label is not None]
    assert len(labels) == 4
    np.testing.assert_array_equal(labels[0], label_map(expected))
    assert (dataset.notes == ()) is (note is None)
    assert note is None or note in dataset.notes[0]


@pytest.mark.parametrize("split", ["val", "test"])
def test_split_without_a_labelled_pixel_is_refused_with_the_reason(tmp_path, split):
    root = make_cityscapes(tmp_path, split, sequences=False)
    relabel(root, VOID_ONLY)
    dataset = open_dataset(f"cityscapes:{root}", split)
    with pytest.raises(DatasetError, match="all of its 4 label maps are void") as caught:
        require_labelled_pixels(dataset)
    assert ("use val" in str(caught.value)) is (split == "test")
    last = sorted(root.glob("gtFine/*/*/*_gtFine_labelIds.png"))[-1]
    write_label(last, label_map([*VOID_ONLY, 7]))
    require_labelled_pixels(dataset)


def test_cityscapes_empty_root_lists_its_content(tmp_path):
    (tmp_path / "somewhere").mkdir()
    with pytest.raises(DatasetError, match=r"leftImg8bit/val.*holds somewhere"):
        open_dataset(f"cityscapes:{tmp_path}")


@pytest.mark.parametrize("palette", [False, True])
def test_vspw_clips_and_labels(tmp_path, palette):
    dataset = open_dataset(f"vspw:{make_vspw(tmp_path, palette=palette)}", "val")
    assert [clip.name for clip in dataset.clips] == ["127_-hIVCYO4C90", "5_3-WzGJCOIzg"]
    assert (dataset.frame_count, dataset.label_count) == (23, 23)
    frames = list(dataset.clips[0])
    np.testing.assert_array_equal(frames[2].label, label_map([255, 0, 123, 60, 255], shift=2))
    assert dataset.classes[0].name == "wall"
    assert dataset.classes[60].name == "person"


def test_vspw_test_split_without_masks(tmp_path):
    make_vspw(tmp_path, "test", masks=False)
    assert open_dataset(f"vspw:{tmp_path}", "test", labels=False).frame_count == 23
    with pytest.raises(DatasetError, match="masks of the test split are not published"):
        open_dataset(f"vspw:{tmp_path}", "test")


def test_vspw_missing_list_video_and_mask_are_named(tmp_path):
    make_vspw(tmp_path)
    with pytest.raises(DatasetError, match=r"train\.txt"):
        open_dataset(f"vspw:{tmp_path}", "train")
    mask = tmp_path / "data/5_3-WzGJCOIzg/mask/00000008.png"
    mask.rename(tmp_path / "kept.png")
    with pytest.raises(DatasetError, match=r"1 of 5 masks of 5_3-WzGJCOIzg.*00000008\.png"):
        open_dataset(f"vspw:{tmp_path}", "val")
    (tmp_path / "kept.png").rename(mask)
    with (tmp_path / "val.txt").open("a") as file:
        file.write("900_missing\n")
    with pytest.raises(DatasetError, match="900_missing"):
        open_dataset(f"vspw:{tmp_path}", "val")


def test_camvid_drives_are_clips_in_order(tmp_path):
    make_camvid(tmp_path)
    train = open_dataset(f"camvid:{tmp_path}", "train")
    assert [clip.name for clip in train.clips] == ["0001TP", "0016E5"]
    frames = list(train.clips[1])
    assert [frame.time for frame in frames] == pytest.approx([0, 1, 2, 610 / 30])
    val = open_dataset(f"camvid:{tmp_path}", "val")
    assert (val.clips[0].fps, val.frame_count) == (15.0, 20)
    label = next(iter(val.clips[0])).label
    np.testing.assert_array_equal(label, label_map([0, 3, 8, 255]))


def test_camvid_missing_label_folder_is_named(tmp_path):
    make_camvid(tmp_path)
    for path in (tmp_path / "valannot").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="20 of 20 label maps of val"):
        open_dataset(f"camvid:{tmp_path}", "val")
    (tmp_path / "valannot").rmdir()
    with pytest.raises(DatasetError, match=r"expected the folder .*valannot.*SegNet layout"):
        open_dataset(f"camvid:{tmp_path}", "val")


def test_label_value_that_the_dataset_lacks_is_refused(tmp_path):
    make_camvid(tmp_path)
    write_label(tmp_path / "testannot/Seq05VD_f00030.png", label_map([0, 12]))
    with pytest.raises(DatasetError, match="value 12, which CamVid labels do not have"):
        list(open_dataset(f"camvid:{tmp_path}", "test").clips[0])


def test_label_in_colour_is_refused(tmp_path):
    make_camvid(tmp_path)
    write_image(tmp_path / "testannot/Seq05VD_f00030.png", 0)
    with pytest.raises(DatasetError, match="one 8-bit channel"):
        list(open_dataset(f"camvid:{tmp_path}", "test").clips[0])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("keep", [0, 1, 200])
def test_cut_off_image_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"a{suffix}"
    write_image(path, 0, (40, 40))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=rf"a{suffix} is .*Download it again"):
        list(open_dataset(f"footage:{tmp_path}").clips[0])


def write_video(path: Path, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(frames):
            image = np.full((16, 32, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def test_footage_takes_videos_and_folders_of_frames(tmp_path):
    write_video(tmp_path / "street.mp4", 7)
    for i in range(3):
        write_image(tmp_path / "frames" / f"{i}.png", i)
    dataset = open_dataset(f"footage:{tmp_path}")
    assert [(clip.name, clip.frame_count) for clip in dataset.clips] == [
        ("street.mp4", 7),
        ("frames", 3),
    ]
    frames = list(dataset.clips[0])
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(7)])
    assert frames[0].image.shape == (16, 32, 3)
    assert dataset.clips[0].fps == 10
    assert open_dataset(f"footage:{tmp_path}/street.mp4").frame_count == 7


def test_folder_without_footage_is_rejected(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DatasetError, match=r"no images or videos.*holds notes\.txt"):
        open_dataset(f"footage:{tmp_path}")
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(DatasetError, match=r"bad\.mp4 cannot be opened as a video"):
        open_dataset(f"footage:{tmp_path}")


@pytest.mark.parametrize(
    ("address", "split", "words"),
    [
        ("camvid", "val", "expected NAME:ROOT"),
        ("camvid:", "val", "expected NAME:ROOT"),
        ("kitti:/", "val", "unknown dataset 'kitti'"),
        ("vspw:/nowhere", "val", "root folder /nowhere does not exist"),
        ("camvid:.", "dev", "no split 'dev'"),
        ("footage:/nowhere", "val", "/nowhere does not exist"),
    ],
)
def test_wrong_address_or_split_is_refused(address, split, words):
    with pytest.raises(DatasetError, match=words):
        open_dataset(address, split)


def test_class_tables():
    sizes = [len(table) for table in (classes.CITYSCAPES, classes.VSPW, classes.CAMVID)]
    assert sizes == [19, 124, 11]
    for table in (classes.CITYSCAPES, classes.VSPW, classes.CAMVID):
        assert len({entry.name for entry in table}) == len(table)
        assert len({entry.color for entry in table}) == len(table)
    assert classes.CITYSCAPES_TRAIN_IDS[7] == 0
    assert classes.CITYSCAPES_TRAIN_IDS[33] == 18


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "data/camvid").is_dir(), reason="no shared CamVid")
def test_real_camvid_is_read_completely():
    root = f"camvid:{SHARED / 'data/camvid'}"
    counts = {s: [len(c.stills) for c in open_dataset(root, s).clips] for s in ("train", "val")}
    assert counts == {"train": [62, 101, 204], "val": [101]}
    test = open_dataset(root, "test").clips[0]
    assert (test.frame_count, test.fps) == (171, 1.0)
    assert next(iter(test)).image.shape == (360, 480, 3)

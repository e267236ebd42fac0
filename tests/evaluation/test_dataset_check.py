"""``streamseg dataset check``: what a tree holds and what is missing; and VSPW submissions."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.cli.main import run
from streamseg.errors import DatasetError
from streamseg.evaluation.dataset_check import CheckOptions, check_dataset, recognise
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.segmenter import Output, Segmenter
from streamseg.evaluation.submission import write_submission
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.video.resize import whole_placement
from tests.evaluation.test_more_datasets import MAKERS
from tests.evaluation.trees import make_camvid, make_cityscapes, make_vspw

ALL = {**MAKERS, "camvid": make_camvid, "cityscapes": make_cityscapes, "vspw": make_vspw}


def command(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as code:
        run(["dataset", *arguments])
    assert isinstance(code.value.code, int)
    return code.value.code


@pytest.mark.parametrize("name", ALL)
def test_layouts_are_recognised(tmp_path: Path, name: str) -> None:
    assert recognise(ALL[name](tmp_path)) == name


def test_counts_and_class_shares_are_those_of_the_files(camvid: Path) -> None:
    check, usable = check_dataset(camvid)
    assert [dataset.split for dataset in usable] == ["train", "val", "test"]
    train = check.splits[0]
    assert (train.clips, train.frames, train.labels, train.read) == (2, 8, 8, 8)
    assert (train.shortest, train.longest) == (4, 4)
    files = [cv2.imread(str(p), -1) for p in sorted((camvid / "trainannot").iterdir())]
    counts = np.bincount(np.concatenate(files).ravel(), minlength=12)
    assert train.pixels == tuple(counts)
    assert train.share(3) == pytest.approx(counts[3] / counts[:11].sum())


def test_label_maps_that_are_read_are_spread_and_counted(camvid: Path) -> None:
    check, _ = check_dataset(camvid, CheckOptions(samples=3))
    assert [split.read for split in check.splits] == [3, 3, 3]


def test_command_prints_problems_and_writes_sheet_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_camvid(tmp_path / "camvid")
    (root / "valannot/0016E5_07961.png").unlink()
    sheet, out = tmp_path / "s.png", tmp_path / "c.json"
    assert command(["check", str(root), "--plot", str(sheet), "--json", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1 of 20 label maps of val are missing" in shown
    content = json.loads(out.read_text())
    assert content["dataset"] == "camvid"
    assert content["splits"]["train"]["problem"] is None
    assert content["splits"]["val"]["frames"] == 20
    assert "0016E5_07961.png" in content["splits"]["val"]["problem"]
    image = cv2.imread(str(sheet))
    assert image.shape[1] == 640
    left, right = image[:, :320], image[:, 320:]
    assert np.abs(left.astype(int) - right).max() > 20


def test_damaged_label_is_reported_for_its_split(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    path = root / "testannot/Seq05VD_f00000.png"
    path.write_bytes(path.read_bytes()[:40])
    check, usable = check_dataset(root)
    assert "cut off" in check.splits[2].problem
    assert [dataset.split for dataset in usable] == ["train", "val"]


def test_unknown_layout_and_unusable_tree_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DatasetError, match="layout of no known dataset"):
        recognise(tmp_path)
    (tmp_path / "gtFine").mkdir()
    assert command(["check", str(tmp_path)]) == 2
    assert "no split of cityscapes can be used" in capsys.readouterr().err
    assert command(["check", str(tmp_path / "none")]) == 2


class ByFrame(Segmenter):
    """The class of every pixel is how many frames were stepped since the reset."""

    def __init__(self) -> None:
        self.name = "by frame"
        self.classes = tuple(ClassInfo(i, str(i), (0, 0, 0)) for i in range(124))
        self.count = 0

    def step(self, frame: np.ndarray) -> Output:
        labels = np.full(frame.shape[:2], self.count, np.uint8)
        labels[0] = 255
        self.count += 1
        return Output(labels, whole_placement(frame.shape[:2]), lambda: None)

    def reset(self) -> None:
        self.count = 0

    def state(self) -> dict[str, np.ndarray]:
        return {}


def test_submission_has_the_layout_and_values_of_the_masks(tmp_path: Path) -> None:
    root = make_vspw(tmp_path / "vspw", "test", masks=False)
    dataset = open_dataset(f"vspw:{root}", "test", labels=False)
    out = tmp_path / "result"
    assert write_submission(ByFrame(), dataset, out) == 23
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    origin = sorted(
        path.relative_to(root / "data").as_posix().replace("/origin/", "/").replace(".jpg", ".png")
        for path in (root / "data").rglob("*.jpg")
    )
    assert written == origin
    mask = cv2.imread(str(out / "5_3-WzGJCOIzg/00000008.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (12, 20)
    # third frame of its video: class 2 is written as 3, no class as 0
    assert (mask[1:] == 3).all()
    assert (mask[0] == 0).all()
    with pytest.raises(DatasetError, match="is not empty"):
        write_submission(ByFrame(), dataset, out)


def test_submissions_are_for_vspw(camvid: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="submissions are for vspw, got camvid"):
        write_submission(ByFrame(), open_dataset(f"camvid:{camvid}", "val"), tmp_path / "out")

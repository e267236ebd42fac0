"""KITTI-360: drives in the order of their frames, with the 19 classes of Cityscapes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset, Still, StillClip
from streamseg.evaluation.datasets.frame_lists import Pair, read_pairs, require_pairs
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.singles import check_split
from streamseg.evaluation.datasets.trees import require_folder

SPLITS = ("train", "val")
_CODING = LabelCoding.of(
    "KITTI-360",
    classes.KITTI360_TRAIN_IDS,
    void=(
        *(i for i in classes.KITTI360_LABEL_IDS if i not in classes.KITTI360_TRAIN_IDS),
        classes.CITYSCAPES_LICENSE_PLATE,
    ),
)
_ADVICE = "Unpack data_2d_perspective.zip and data_2d_semantics.zip there."


def _runs(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Frames of one camera of one drive whose numbers follow each other, by a name."""
    cameras: dict[tuple[str, str], dict[int, Pair]] = defaultdict(dict)
    for pair in pairs:
        # data_2d_raw/<drive>/<camera>/data_rect/<number>.png
        drive, camera, _, name = pair[0].parts[-4:]
        if not Path(name).stem.isdecimal():
            raise DatasetError(f"kitti360: {pair[0]} is not named <frame number>.png")
        cameras[drive, camera][int(Path(name).stem)] = pair
    runs: dict[str, list[Pair]] = {}
    for (drive, camera), frames in sorted(cameras.items()):
        before = None
        for number in sorted(frames):
            if before is None or number != before + 1:
                name = f"{drive}/{camera}/{number:010d}"
                runs[name] = []
            runs[name].append(frames[number])
            before = number
    return runs


def open_kitti360(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open KITTI-360: every run of consecutive frames of a drive is a clip, all labelled.

    Args:
        root: the folder that holds ``data_2d_raw`` and ``data_2d_semantics``.
        split: ``train`` or ``val``, by the lists of the release.
        labels: ask for the semantic maps; without, the frames come unlabelled.

    Raises:
        DatasetError: a list, frame or label is missing.
    """
    check_split(split, SPLITS, "kitti360")
    folder = require_folder(
        root / "data_2d_semantics" / "train", dataset="kitti360", root=root, advice=_ADVICE
    )
    pairs = read_pairs(folder / f"2013_05_28_drive_{split}_frames.txt", root, dataset="kitti360")
    require_pairs(pairs, dataset="kitti360", labels=labels)
    clips = [
        StillClip(
            name,
            tuple(Still(image, label if labels else None) for image, label in run),
            None,
            _CODING,
        )
        for name, run in _runs(pairs).items()
    ]
    return Dataset("kitti360", root, split, clips, classes.CITYSCAPES)

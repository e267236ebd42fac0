"""Cityscapes: 30-frame clips with the label on the 20th, or the labelled images alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset, Still, StillClip
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.trees import list_images, require_folder, subfolders

SPLITS = ("train", "val", "test")
CLIP_LENGTH = 30
LABEL_INDEX = 19
FPS = 17.0

_NAME = re.compile(r"(?P<city>[A-Za-z-]+)_(?P<drive>\d{6})_(?P<frame>\d{6})_leftImg8bit")
_SEQUENCES = "leftImg8bit_sequence"
_SINGLES = "leftImg8bit"
_LABELS = "gtFine"

_CODING = LabelCoding.of(
    "Cityscapes",
    classes.CITYSCAPES_TRAIN_IDS,
    void=(
        *(i for i in classes.CITYSCAPES_LABEL_IDS if i not in classes.CITYSCAPES_TRAIN_IDS),
        classes.CITYSCAPES_LICENSE_PLATE,
    ),
)


@dataclass(frozen=True, order=True)
class _Moment:
    city: str
    drive: str
    frame: int

    @property
    def stem(self) -> str:
        return f"{self.city}_{self.drive}_{self.frame:06d}"


def _moment(path: Path) -> _Moment:
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise DatasetError(
            f"cityscapes: {path} is not named <city>_<drive>_<frame>_leftImg8bit.png"
        )
    return _Moment(match["city"], match["drive"], int(match["frame"]))


def _images(folder: Path) -> dict[_Moment, Path]:
    images = {_moment(path): path for city in subfolders(folder) for path in list_images(city)}
    if not images:
        raise DatasetError(f"cityscapes: {folder} holds no <city>/*_leftImg8bit.png")
    return dict(sorted(images.items()))


def _label_paths(root: Path, split: str) -> dict[_Moment, Path]:
    folder = require_folder(
        root / _LABELS / split,
        dataset="cityscapes",
        root=root,
        advice="Unpack gtFine_trainvaltest.zip there.",
    )
    suffix = "_gtFine_labelIds.png"
    labels = {}
    for path in sorted(folder.glob(f"*/*{suffix}")):
        stem = path.name.removesuffix(suffix)
        labels[_moment(Path(f"{stem}_leftImg8bit"))] = path
    if not labels:
        raise DatasetError(f"cityscapes: {folder} holds no <city>/*{suffix}")
    return labels


def _incomplete(missing: int, total: int, first: Path) -> DatasetError:
    return DatasetError(
        f"cityscapes: {missing} of {total} frames are missing, the first is {first}. The tree "
        "looks half downloaded or half unpacked: unpack the archive again."
    )


def _clip(name: str, stills: Sequence[Still]) -> StillClip:
    return StillClip(name, tuple(stills), FPS, _CODING)


def _labelled_sequences(
    images: dict[_Moment, Path], labels: dict[_Moment, Path], folder: Path
) -> list[StillClip]:
    clips, missing = [], []
    for at, label in sorted(labels.items()):
        first = at.frame - LABEL_INDEX
        moments = [_Moment(at.city, at.drive, first + i) for i in range(CLIP_LENGTH)]
        missing += [moment for moment in moments if moment not in images]
        if missing:
            continue
        stills = [
            Still(images[moment], label if i == LABEL_INDEX else None, i / FPS)
            for i, moment in enumerate(moments)
        ]
        clips.append(_clip(at.stem, stills))
    if missing:
        name = f"{missing[0].stem}_leftImg8bit.png"
        raise _incomplete(len(missing), len(labels) * CLIP_LENGTH, folder / missing[0].city / name)
    return clips


def _bare_sequences(images: dict[_Moment, Path], folder: Path) -> list[StillClip]:
    # Without labels the clips are the runs of consecutive frame numbers, cut every 30 frames:
    # some drives follow one another without a gap.
    drives: dict[tuple[str, str], list[_Moment]] = defaultdict(list)
    for moment in images:
        drives[moment.city, moment.drive].append(moment)
    clips = []
    for moments in drives.values():
        runs: list[list[_Moment]] = []
        for moment in moments:
            follows = runs and moment.frame == runs[-1][-1].frame + 1
            if not follows or len(runs[-1]) == CLIP_LENGTH:
                runs.append([])
            runs[-1].append(moment)
        for run in runs:
            if len(run) != CLIP_LENGTH:
                name = f"{_Moment(run[0].city, run[0].drive, run[-1].frame + 1).stem}"
                raise _incomplete(
                    CLIP_LENGTH - len(run),
                    CLIP_LENGTH,
                    folder / run[0].city / f"{name}_leftImg8bit.png",
                )
            stills = [Still(images[moment], None, i / FPS) for i, moment in enumerate(run)]
            clips.append(_clip(run[0].stem, stills))
    return clips


def _singles(
    images: dict[_Moment, Path], labels: dict[_Moment, Path] | None, folder: Path
) -> list[StillClip]:
    if labels is not None:
        unpaired = sorted(set(labels) - set(images))
        if unpaired:
            name = f"{unpaired[0].stem}_leftImg8bit.png"
            raise _incomplete(len(unpaired), len(labels), folder / unpaired[0].city / name)
        unlabelled = sorted(set(images) - set(labels))
        if unlabelled:
            raise DatasetError(
                f"cityscapes: {len(unlabelled)} of {len(images)} images have no label, the first "
                f"is {images[unlabelled[0]]}. Unpack gtFine_trainvaltest.zip again."
            )
    return [
        _clip(at.stem, [Still(path, labels[at] if labels is not None else None, 0.0)])
        for at, path in images.items()
    ]


def open_cityscapes(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open Cityscapes.

    With ``leftImg8bit_sequence/<split>`` the clips are its 30-frame snippets, with the label on
    frame index 19; with ``leftImg8bit/<split>`` alone every image is a clip of one frame.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        split: ``train``, ``val`` or ``test``.
        labels: ask for ``gtFine/<split>``; without, the frames come unlabelled.

    Raises:
        DatasetError: a folder or a frame is missing; the message names it.
    """
    if split not in SPLITS:
        raise DatasetError(
            f"cityscapes has no split {split!r}: expected one of {', '.join(SPLITS)}"
        )
    sequences = root / _SEQUENCES / split
    folder = require_folder(
        sequences if sequences.is_dir() else root / _SINGLES / split,
        dataset="cityscapes",
        root=root,
        advice=(
            f"Unpack leftImg8bit_trainvaltest.zip there, or leftImg8bit_sequence_trainvaltest.zip "
            f"into {root / _SEQUENCES}."
        ),
    )
    images = _images(folder)
    found = _label_paths(root, split) if labels else None
    if folder != sequences:
        clips = _singles(images, found, folder)
    elif found is None:
        clips = _bare_sequences(images, folder)
    else:
        clips = _labelled_sequences(images, found, folder)
    return Dataset("cityscapes", root, split, clips, classes.CITYSCAPES)

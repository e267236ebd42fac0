"""Cityscapes: 30-frame clips with the label on the 20th, or the labelled images alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset, Still, StillClip
from streamseg.evaluation.datasets.images import LabelCoding, read_label_values
from streamseg.evaluation.datasets.trees import list_images, require_folder, subfolders

SPLITS = ("train", "val", "test")
CLIP_LENGTH = 30
LABEL_INDEX = 19
FPS = 17.0

_NAME = re.compile(r"(?P<city>[A-Za-z-]+)_(?P<drive>\d{6})_(?P<frame>\d{6})_leftImg8bit")
_SEQUENCES = "leftImg8bit_sequence"
_SINGLES = "leftImg8bit"
_LABELS = "gtFine"

_LABEL_IDS = LabelCoding.of(
    "Cityscapes",
    classes.CITYSCAPES_TRAIN_IDS,
    void=(
        *(i for i in classes.CITYSCAPES_LABEL_IDS if i not in classes.CITYSCAPES_TRAIN_IDS),
        classes.CITYSCAPES_LICENSE_PLATE,
    ),
)
_TRAIN_IDS = LabelCoding.of(
    "Cityscapes train id",
    {train_id: train_id for train_id in range(len(classes.CITYSCAPES))},
    void=(classes.VOID,),
)
LABEL_IDS, TRAIN_IDS = "label ids", "train ids"
_CODINGS = {LABEL_IDS: _LABEL_IDS, TRAIN_IDS: _TRAIN_IDS}
# How label files are named, and what they hold by that name.
_SUFFIXES = {"_gtFine_labelIds.png": LABEL_IDS, "_gtFine_labelTrainIds.png": TRAIN_IDS}


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


@dataclass(frozen=True)
class _LabelFiles:
    paths: dict[_Moment, Path]
    coding: LabelCoding
    note: str | None = None


def _label_files(root: Path, split: str) -> _LabelFiles:
    folder = require_folder(
        root / _LABELS / split,
        dataset="cityscapes",
        root=root,
        advice="Unpack gtFine_trainvaltest.zip there.",
    )
    for suffix, kind in _SUFFIXES.items():
        paths = {
            _moment(Path(f"{path.name.removesuffix(suffix)}_leftImg8bit")): path
            for path in sorted(folder.glob(f"*/*{suffix}"))
        }
        if paths:
            held, reason = _recognise(paths.values(), kind)
            note = None if reason is None else f"*{suffix} are read as {held}: {reason}"
            return _LabelFiles(paths, _CODINGS[held], note)
    names = " or ".join(f"<city>/*{suffix}" for suffix in _SUFFIXES)
    raise DatasetError(f"cityscapes: {folder} holds no {names}")


def _recognise(paths: Iterable[Path], named: str) -> tuple[str, str | None]:
    """Distinguish label ids from train ids by their values; tools write either under both names.

    Only label ids go above 18. Train ids mark void as 255, which label ids have for licence plates
    alone, never without a car.

    Returns:
        What the files hold, and why it is said, where their name does not settle it.
    """
    counts = np.zeros(256, np.int64)
    for path in paths:
        counts += np.bincount(read_label_values(path, "Cityscapes").ravel(), minlength=256)
        if counts[len(classes.CITYSCAPES) : classes.VOID].any():
            reason = None if named == LABEL_IDS else "they hold values above 18"
            return LABEL_IDS, reason
    if counts[classes.VOID]:
        return TRAIN_IDS, None if named == TRAIN_IDS else "they hold 255 and no value from 19 to 33"
    void = counts[_LABEL_IDS.table == classes.VOID].sum() / max(1, counts.sum())
    if named == LABEL_IDS and void > 0.5 and counts[min(classes.CITYSCAPES_TRAIN_IDS) :].any():
        return TRAIN_IDS, f"no value is above 18, and {void:.0%} of pixels would be void label ids"
    return named, "by their name alone, because no value is above 18 or 255"


def _incomplete(missing: int, total: int, first: Path) -> DatasetError:
    return DatasetError(
        f"cityscapes: {missing} of {total} frames are missing, the first is {first}. The tree "
        "looks half downloaded or half unpacked: unpack the archive again."
    )


def _clip(name: str, stills: Sequence[Still], coding: LabelCoding | None = None) -> StillClip:
    return StillClip(name, tuple(stills), FPS, coding)


def _labelled_sequences(
    images: dict[_Moment, Path], labels: _LabelFiles, folder: Path
) -> list[StillClip]:
    clips, missing = [], []
    for at, label in sorted(labels.paths.items()):
        first = at.frame - LABEL_INDEX
        moments = [_Moment(at.city, at.drive, first + i) for i in range(CLIP_LENGTH)]
        missing += [moment for moment in moments if moment not in images]
        if missing:
            continue
        stills = [
            Still(images[moment], label if i == LABEL_INDEX else None, i / FPS)
            for i, moment in enumerate(moments)
        ]
        clips.append(_clip(at.stem, stills, labels.coding))
    if missing:
        name = f"{missing[0].stem}_leftImg8bit.png"
        raise _incomplete(
            len(missing), len(labels.paths) * CLIP_LENGTH, folder / missing[0].city / name
        )
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
    images: dict[_Moment, Path], labels: _LabelFiles | None, folder: Path
) -> list[StillClip]:
    if labels is None:
        return [_clip(at.stem, [Still(path, None, 0.0)]) for at, path in images.items()]
    unpaired = sorted(set(labels.paths) - set(images))
    if unpaired:
        name = f"{unpaired[0].stem}_leftImg8bit.png"
        raise _incomplete(len(unpaired), len(labels.paths), folder / unpaired[0].city / name)
    unlabelled = sorted(set(images) - set(labels.paths))
    if unlabelled:
        raise DatasetError(
            f"cityscapes: {len(unlabelled)} of {len(images)} images have no label, the first "
            f"is {images[unlabelled[0]]}. Unpack gtFine_trainvaltest.zip again."
        )
    return [
        _clip(at.stem, [Still(path, labels.paths[at], 0.0)], labels.coding)
        for at, path in images.items()
    ]


def open_cityscapes(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open Cityscapes.

    With ``leftImg8bit_sequence/<split>`` the clips are its 30-frame snippets, with the label on
    frame index 19; with ``leftImg8bit/<split>`` alone every image is a clip of one frame.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        split: ``train``, ``val`` or ``test``.
        labels: ask for ``gtFine/<split>``, label ids or train ids, distinguished by what the files
            hold; without, the frames come unlabelled.

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
    found = _label_files(root, split) if labels else None
    if folder != sequences:
        clips = _singles(images, found, folder)
    elif found is None:
        clips = _bare_sequences(images, folder)
    else:
        clips = _labelled_sequences(images, found, folder)
    notes = (found.note,) if found is not None and found.note is not None else ()
    return Dataset("cityscapes", root, split, clips, classes.CITYSCAPES, notes)

"""VSPW: densely labelled videos, 124 classes; the label value "others" is void."""

from __future__ import annotations

from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import label_classes as classes
from streamseg.evaluation.datasets.clips import Dataset, Still, StillClip
from streamseg.evaluation.datasets.images import LabelCoding
from streamseg.evaluation.datasets.trees import list_images, require_files, require_folder

SPLITS = ("train", "val", "test")
FPS = 15.0

# File values 1 to 124 are the classes; 0 is "others", 255 unlabelled.
_CODING = LabelCoding.of(
    "VSPW", {value: value - 1 for value in range(1, len(classes.VSPW) + 1)}, void=(0, classes.VOID)
)


def _read_list(root: Path, split: str) -> list[str]:
    path = root / f"{split}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"vspw: the list {path} cannot be read ({error}). Expected the root of VSPW or "
            "VSPW_480p, which holds data/, train.txt, val.txt and test.txt."
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DatasetError(f"vspw: the list {path} is empty")
    return names


def _clip(video: Path, root: Path, *, labels: bool) -> StillClip:
    origin = require_folder(
        video / "origin",
        dataset="vspw",
        root=root,
        advice="The tree looks half downloaded or half unpacked: unpack it again.",
    )
    images = list_images(origin)
    if not images:
        raise DatasetError(f"vspw: {origin} holds no images. Unpack the archive again.")
    masks = [video / "mask" / f"{image.stem}.png" for image in images]
    if labels:
        require_folder(
            video / "mask",
            dataset="vspw",
            root=root,
            advice="The masks of the test split are not published: use val.",
        )
        require_files(masks, dataset="vspw", what=f"masks of {video.name}")
    stills = (
        Still(image, mask if labels else None, i / FPS)
        for i, (image, mask) in enumerate(zip(images, masks, strict=True))
    )
    return StillClip(video.name, tuple(stills), FPS, _CODING)


def open_vspw(root: Path, split: str, *, labels: bool = True) -> Dataset:
    """Open VSPW or VSPW_480p: one clip a video, every frame labelled.

    Args:
        root: the folder that holds ``data`` and ``train.txt``.
        split: ``train``, ``val`` or ``test``.
        labels: ask for the masks; without, the frames come unlabelled.

    Raises:
        DatasetError: a list, folder, frame or mask is missing; the message names it.
    """
    if split not in SPLITS:
        raise DatasetError(f"vspw has no split {split!r}: expected one of {', '.join(SPLITS)}")
    names = _read_list(root, split)
    data = require_folder(
        root / "data", dataset="vspw", root=root, advice="It holds one folder a video."
    )
    clips = [_clip(data / name, root, labels=labels) for name in names]
    return Dataset("vspw", root, split, clips, classes.VSPW)

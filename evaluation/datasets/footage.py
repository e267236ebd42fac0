"""Any footage without labels: a video file, a folder of frames, or folders of either."""

from __future__ import annotations

from pathlib import Path

from streamseg.errors import DatasetError
from streamseg.evaluation.datasets.clips import Clip, Dataset, Still, StillClip, VideoClip
from streamseg.evaluation.datasets.trees import describe_folder, list_images, subfolders
from streamseg.runtime.sources.listing import VIDEO_SUFFIXES, list_files


def _clips_in(folder: Path, root: Path) -> list[Clip]:
    clips: list[Clip] = []
    name = folder.relative_to(root).as_posix() if folder != root else root.name
    images = list_images(folder)
    if images:
        clips.append(StillClip(name, tuple(Still(path) for path in images)))
    clips.extend(
        VideoClip.probe(path, path.relative_to(root).as_posix())
        for path in list_files(folder, VIDEO_SUFFIXES)
    )
    for inner in subfolders(folder):
        clips.extend(_clips_in(inner, root))
    return clips


def open_footage(root: Path) -> Dataset:
    """Open footage: every video is a clip, and so is every folder that holds images.

    Images of a folder come in the order of their names.

    Raises:
        DatasetError: nothing is there, or nothing in it is an image or a video.
    """
    if root.is_file():
        clips: list[Clip] = [VideoClip.probe(root, root.name)]
    elif root.is_dir():
        clips = _clips_in(root, root)
    else:
        raise DatasetError(f"footage: {root} does not exist: expected a video or a folder")
    if not clips:
        raise DatasetError(
            f"footage: no images or videos ({', '.join(VIDEO_SUFFIXES)}) in or below {root}; "
            f"{describe_folder(root)}"
        )
    return Dataset("footage", root, "all", clips, ())

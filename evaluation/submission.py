"""Predictions as the VSPW test server takes them: one PNG a frame, in folders by video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from streamseg.errors import DatasetError
from streamseg.evaluation.class_matching import ClassesBy
from streamseg.evaluation.datasets import VOID, Dataset
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.evaluation.scores import match_dataset
from streamseg.evaluation.segmenter import Segmenter
from streamseg.files import make_folder, whole_file


def write_submission(
    segmenter: Segmenter,
    dataset: Dataset,
    folder: Path,
    *,
    classes_by: ClassesBy = "name",
    progress: Progress = no_progress,
) -> int:
    """Write ``<video>/<frame>.png`` with the values of VSPW's masks, with state through each video.

    Values are 1 to 124, as in the published masks; a pixel without a class is 0. Sizes are those of
    the frames.

    Args:
        segmenter: the model.
        dataset: VSPW, labels not needed.
        folder: new or empty.
        classes_by: how classes are matched.
        progress: called after each frame with the clip's name.

    Returns:
        How many files were written.

    Raises:
        DatasetError: another dataset, other classes, or a folder that is not empty.
    """
    if dataset.name != "vspw":
        raise DatasetError(f"submissions are for vspw, got {dataset.name}")
    match = match_dataset(segmenter, dataset, classes_by=classes_by)
    make_folder(folder, DatasetError)
    if any(folder.iterdir()):
        raise DatasetError(f"{folder} is not empty: name a new folder")
    written = 0
    for clip in dataset.clips:
        make_folder(folder / clip.name, DatasetError)
        segmenter.reset()
        for frame in clip:
            size = frame.image.shape[0], frame.image.shape[1]
            labels = match.translate(segmenter.step(frame.image).labels_at(size))
            values = np.where(labels == VOID, 0, labels + 1).astype(np.uint8)
            encoded, content = cv2.imencode(".png", values)
            assert encoded
            with whole_file(folder / clip.name / f"{frame.name}.png", DatasetError) as draft:
                draft.write_bytes(content.tobytes())
            written += 1
            progress(clip.name)
    return written

"""Label maps and confidences as PNG files, one a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.counting import count_of
from streamseg.errors import SinkError
from streamseg.runtime.bundle.class_names import has_names, match_names, unmatched
from streamseg.runtime.bundle.manifest import ClassInfo, Manifest
from streamseg.runtime.sinks.sink import SegmentedFrame, write_failure
from streamseg.runtime.video.resize import Image

LabelIds = Literal["train", "cityscapes", "cityscapes-by-position"]
LABEL_IDS: tuple[LabelIds, ...] = ("train", "cityscapes", "cityscapes-by-position")

# Label ids of the 19 evaluated classes of Cityscapes (Cordts et al., CVPR 2016), in the order of
# their train ids. Id 0 is "unlabeled".
CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


@dataclass(frozen=True)
class LabelTable:
    """What is written for each label: ``values`` (256,) uint8, and a note on how it was made."""

    values: NDArray[np.uint8]
    note: str


def cityscapes_ids(classes: Sequence[ClassInfo], *, by_position: bool = False) -> LabelTable:
    """The Cityscapes label id of each class id; 0, "unlabeled", for no class.

    Args:
        classes: of the bundle; found by their names, or taken as train ids where they have none.
        by_position: take class ids as train ids, whatever the names.
    Raises:
        SinkError: a class that Cityscapes does not have.
    """
    names = [entry.name for entry in classes]
    note = "Cityscapes label ids"
    places: Sequence[int] | None = range(len(names))
    if by_position:
        note += ", class ids taken as train ids"
    elif not has_names(names):
        note += ", class ids taken as train ids: the bundle has no class names"
    else:
        places = match_names(names, list(CITYSCAPES), dataset="cityscapes")
    if places is None or len(names) > len(CITYSCAPES):
        missing = unmatched(names, list(CITYSCAPES), dataset="cityscapes")
        raise SinkError(
            f"the bundle has classes that Cityscapes does not have: {', '.join(missing)}. Bundle: "
            f"{', '.join(names)}. Cityscapes: {', '.join(CITYSCAPES)}. Use --label-ids train, or, "
            "where the class ids are train ids, --label-ids cityscapes-by-position"
        )
    ids = np.array(list(CITYSCAPES.values()), np.uint8)
    table = np.zeros(256, np.uint8)
    table[: len(names)] = ids[list(places)]
    return LabelTable(table, note)


def require_logits(manifest: Manifest) -> None:
    """Check that a bundle gives what confidences are made from.

    Raises:
        SinkError: it gives no logits.
    """
    if not any("logits" in graph.outputs for graph in manifest.graphs.values()):
        raise SinkError(
            "this bundle gives no logits, which confidences are made from; "
            "export it again with --logits"
        )


class PngFolder:
    """Writes ``<index>.png``, six digits, 8 bits, into a folder.

    Other files in an existing folder stay; files of the same name are replaced. Each file is
    complete or absent.

    Args:
        path: the folder.
        content: what one file is, for messages.
        note: added to the number of files.

    Raises:
        SinkError: the folder cannot be made or written.
    """

    def __init__(self, path: str | Path, content: str, note: str = "") -> None:
        self.path = Path(path)
        self.frames = 0
        self._content, self._note = content, note
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._draft.touch()
            self._draft.unlink()
        except OSError as error:
            raise SinkError(f"cannot write into {self.path}: {error.strerror}") from None

    @property
    def _draft(self) -> Path:
        return self.path / ".streamseg.part"

    def write(self, image: Image, index: int) -> None:
        """Write one uint8 image, (height, width) or (height, width, 3) BGR.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason.
        """
        _, content = cv2.imencode(".png", image)
        target = self.path / f"{index:06d}.png"
        try:
            self._draft.write_bytes(content.tobytes())
            self._draft.replace(target)
        except OSError as error:
            failure = write_failure(target, error)
            self._draft.unlink(missing_ok=True)
            raise failure from None
        self.frames += 1

    def finish(self) -> str:
        """Report how many were written."""
        return f"{self.path}: {count_of(self.frames, self._content)}{self._note}"

    def discard(self) -> None:
        """Keep whole files; remove the folder if it was made here and is empty."""
        if self._made and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


class LabelSink:
    """Label maps; see ``PngFolder``.

    Args:
        path: the folder.
        table: what to write for each label; by default the labels themselves, class ids as in the
            manifest and 255 = none.

    Raises:
        SinkError: the folder cannot be made or written.
    """

    needs_picture = False
    needs_confidence = False

    def __init__(self, path: str | Path, table: LabelTable | None = None) -> None:
        note = "" if table is None else f" ({table.note})"
        self._folder = PngFolder(path, "label map", note)
        self._values = None if table is None else table.values
        self.path = self._folder.path
        self.finish, self.discard = self._folder.finish, self._folder.discard

    def write(self, frame: SegmentedFrame) -> None:
        """Write one label map. Raises SinkError."""
        labels = frame.labels if self._values is None else cv2.LUT(frame.labels, self._values)
        self._folder.write(np.asarray(labels, dtype=np.uint8), frame.index)


class ConfidenceSink:
    """Probabilities of the labels, 255 = certain; see ``PngFolder``.

    Raises:
        SinkError: the folder cannot be made or written.
    """

    needs_picture = False
    needs_confidence = True

    def __init__(self, path: str | Path) -> None:
        self._folder = PngFolder(path, "confidence map")
        self.path = self._folder.path
        self.finish, self.discard = self._folder.finish, self._folder.discard

    def write(self, frame: SegmentedFrame) -> None:
        """Write one map. Raises SinkError."""
        assert frame.confidence is not None
        self._folder.write(frame.confidence, frame.index)

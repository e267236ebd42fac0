"""The label WebSocket's messages: classes once, then every frame's labels as runs.

docs/label-stream.md describes them for clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamseg.runtime.video.resize import Image

VERSION = 1
NO_CLASS = 255


def greeting(stream: str, classes: Sequence[Mapping[str, Any]]) -> str:
    """The first message: which stream, and its classes."""
    hello = {"version": VERSION, "stream": stream, "classes": list(classes), "none": NO_CLASS}
    return json.dumps({"hello": hello})


@dataclass(frozen=True)
class LabelFrame:
    """The labels of one frame.

    Attributes:
        labels: (height, width) uint8 class ids.
        frame: index in the source.
        time: of the frame in the source, seconds.
    """

    labels: Image
    frame: int
    time: float

    def encode(self) -> str:
        """The message."""
        height, width = self.labels.shape
        content = {
            "frame": self.frame,
            "time": round(self.time, 6),
            "height": height,
            "width": width,
            "runs": encode_runs(self.labels),
        }
        return json.dumps({"labels": content}, separators=(",", ":"))


def encode_runs(labels: Image) -> list[int]:
    """Row by row, each run's class id and length: ``[id, length, id, length, ...]``.

    Args:
        labels: (height, width) uint8, not empty. A run may continue in the next row.
    """
    flat = labels.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    runs: list[int] = np.stack([flat[starts].astype(np.int64), lengths], axis=1).ravel().tolist()
    return runs

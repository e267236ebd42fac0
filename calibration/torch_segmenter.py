"""A checkpoint run in PyTorch, float32, one frame at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from streamseg.calibration.segmenter import (
    Array,
    Output,
    Segmenter,
    SegmenterOptions,
    labels_from_logits,
)
from streamseg.export.checkpoint import load_checkpoint

_AREA_FACTOR = 2


def fit_frame(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Stretch (H, W, 3) to ``size`` as the runtime does: by area when shrinking more than twice."""
    if frame.shape[:2] == size:
        return frame
    shrinks = max(frame.shape[0] / size[0], frame.shape[1] / size[1]) > _AREA_FACTOR
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=mode), np.uint8)


class CheckpointSegmenter(Segmenter):
    """The model that ``load_checkpoint`` builds, stepped with its state."""

    def __init__(self, path: Path, options: SegmenterOptions, size: tuple[int, int]) -> None:
        self.name = str(path)
        self._size = size
        self._model = load_checkpoint(path, window=options.window, shift=options.shift).eval()
        self._model.check_size(size)
        self.classes = self._model.classes
        self._names = [spec.name for spec in self._model.state_spec(size)]
        self._state = self._model.initial_state(size)

    @torch.inference_mode()
    def step(self, frame: NDArray[np.uint8]) -> Output:
        """Segment a frame; see ``Segmenter.step``."""
        fitted = torch.from_numpy(fit_frame(frame, self._size).copy())[None]
        logits, *state = self._model(fitted, *self._state)
        self._state = tuple(state)
        scores = np.asarray(logits[0].numpy(), np.float32)
        labels = labels_from_logits(scores, self._size)
        shape = frame.shape[1], frame.shape[0]
        if labels.shape != frame.shape[:2]:
            resized = cv2.resize(labels, shape, interpolation=cv2.INTER_NEAREST_EXACT)
            labels = np.asarray(resized, np.uint8)
        return Output(labels, scores)

    def reset(self) -> None:
        """Zero the state."""
        self._state = self._model.initial_state(self._size)

    def state(self) -> Mapping[str, Array]:
        """Copies of the state tensors."""
        return {
            name: np.array(tensor.numpy())
            for name, tensor in zip(self._names, self._state, strict=True)
        }

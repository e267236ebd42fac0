"""A checkpoint run in PyTorch, float32, one frame at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from streamseg.evaluation.segmenter import (
    Array,
    Output,
    Scaled,
    Segmenter,
    SegmenterOptions,
)
from streamseg.export.factory import load_model
from streamseg.export.torch_replay import Replay
from streamseg.runtime.video.resize import FrameFitter


class CheckpointSegmenter(Segmenter):
    """The model that ``load_model`` builds, stepped with its state."""

    def __init__(self, path: Path, options: SegmenterOptions, size: tuple[int, int]) -> None:
        self.name = str(path)
        self._size = size
        self._model = load_model(path, settings=options.settings, override=options.override).eval()
        self._model.check_size(size)
        self._scaled: Scaled = options.scaled or "logits"
        self.classes = self._model.classes
        self.assumed = self._model.assumed
        self._replay = Replay(self._model, size)
        self._fitter: FrameFitter | None = None
        self._fitted = np.empty((*size, 3), np.uint8)

    @torch.inference_mode()
    def step(self, frame: NDArray[np.uint8]) -> Output:
        """Segment a frame; see ``Segmenter.step``."""
        size = frame.shape[0], frame.shape[1]
        if self._fitter is None or self._fitter.frame_size != size:
            self._fitter = FrameFitter(size, self._size)
        self._fitter.fit(frame, self._fitted)
        logits = self._replay.logits(torch.from_numpy(self._fitted)[None])
        scores = np.asarray(logits[0].numpy(), np.float32)
        placement = self._fitter.placement
        labels = placement.labels(scores.argmax(0).astype(np.uint8))
        return Output(labels, placement, lambda: scores, self._scaled)

    def reset(self) -> None:
        """Zero the state."""
        self._replay.reset()

    def state(self) -> Mapping[str, Array]:
        """Copies of the state tensors."""
        return {name: np.array(tensor.numpy()) for name, tensor in self._replay.state().items()}

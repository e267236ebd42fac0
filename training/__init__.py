"""Clip sampling, loss and the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.training.config import ClipConfig, NetworkConfig, RunOptions, TrainConfig
    from streamseg.training.loop import TrainReport, train

__all__ = [
    "ClipConfig",
    "NetworkConfig",
    "RunOptions",
    "TrainConfig",
    "TrainReport",
    "train",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "ClipConfig": "training.config",
        "NetworkConfig": "training.config",
        "RunOptions": "training.config",
        "TrainConfig": "training.config",
        "TrainReport": "training.loop",
        "train": "training.loop",
    },
)

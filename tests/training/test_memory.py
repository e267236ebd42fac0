from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamseg.errors import TrainingError
from streamseg.training.memory import advise, find_fitting, smaller_sizes
from streamseg.training.networks import ClipNetwork
from tests.training.small import CONFIG, run


def test_sizes_shrink_batch_first_then_crop():
    assert list(smaller_sizes(5, (256, 512))) == [
        (2, (256, 512)),
        (1, (256, 512)),
        (1, (192, 384)),
        (1, (128, 288)),
        (1, (96, 192)),
        (1, (64, 128)),
    ]


def test_largest_that_fits_is_named():
    found = find_fitting(8, (480, 480), lambda size: size[0] * size[1][0] <= 1000)
    assert found == (2, (480, 480))
    assert advise(found, processes=1) == "This fits here: --batch 2 --crop 480x480"
    assert find_fitting(1, (64, 64), lambda _: True) is None
    assert "No smaller" in advise(None, processes=1)


def test_step_that_does_not_fit_names_a_size_that_does(tmp_path, monkeypatch):
    forward = ClipNetwork.forward
    limit = 2

    def limited(self, frames, places=None):
        if len(frames) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, frames, places)

    monkeypatch.setattr(ClipNetwork, "forward", limited)
    config = replace(CONFIG, clips=replace(CONFIG.clips, batch=6))
    with pytest.raises(TrainingError, match=r"6 clips of 3 frames 32x64 do not fit.*--batch 1 --"):
        run(tmp_path / "a", config=replace(config, clips=replace(config.clips, batch=6)))
    limit = 3
    with pytest.raises(TrainingError, match=r"--batch 3 --crop 32x64"):
        run(tmp_path / "b", config=config)

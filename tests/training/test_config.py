from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamseg.errors import TrainingError
from streamseg.training.config import ClipConfig, NetworkConfig, TrainConfig, differing
from tests.training.small import CONFIG


def test_configuration_survives_json():
    config = replace(CONFIG, class_weights=(1.0, 2.0, 3.0, 4.0))
    assert TrainConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_difference_has_its_path():
    other = replace(CONFIG, lr=0.5, clips=replace(CONFIG.clips, batch=7))
    found = differing(CONFIG.as_json(), other.as_json())
    assert found == ["clips.batch: 2 and 7", "lr: 0.001 and 0.5"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClipConfig(offsets=(-3, -6, 0)), "ascending"),
        (lambda: ClipConfig(offsets=(-3, -1)), "end in 0"),
        (lambda: ClipConfig(offsets=()), "end in 0"),
        (lambda: ClipConfig(batch=0), "batch is 0"),
        (lambda: ClipConfig(scale=(2.0, 1.0)), "scale"),
        (lambda: ClipConfig(flip=2.0), "flip is 2.0"),
        (lambda: ClipConfig(ignore_index=300), "ignore_index is 300"),
        (lambda: NetworkConfig(model="unet"), "one of tv3s, segformer, cffm"),
        (lambda: TrainConfig(steps=0), "steps is 0"),
        (lambda: TrainConfig(lr=0.0), "lr is 0.0"),
        (lambda: TrainConfig(ema=1.0), "ema is 1.0"),
        (lambda: TrainConfig(precision="int8"), "fp32, bf16, fp16"),
        (lambda: TrainConfig(supervise="first"), "last, all"),
    ],
)
def test_value_out_of_range_is_refused(make, words):
    with pytest.raises(TrainingError, match=words):
        make()

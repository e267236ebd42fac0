"""What OpenMMLab's files, Lightning's and our own state of a network beside its weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export import load_checkpoint
from streamseg.export.checkpoint import published_weights
from tests.export import tiny


@cache
def published(family: str) -> dict[str, Tensor]:
    weights = published_weights(tiny.build(family))
    return {key: value.detach().contiguous() for key, value in weights.items()}


def torch_file(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_configuration_text_of_video_networks_is_read(
    tmp_path: Path,
) -> None:
    text = (
        "norm = dict(mean=[1, 2.5, 3], std=[4, 5, 6], to_rgb=True)\n"
        "model = dict(decode_head=dict(window_size=4, shift_size=2))\n"
        "data = dict(train=dict(dilation=[-6, -4, -2], pipeline=[dict(type='N', **norm)]))\n"
        "print('came through', 1 / 0)\n"
    )
    weights = published("tv3s")
    content = {"meta": {"config": text, "CLASSES": ["a", "b", "c"]}, "state_dict": weights}
    model = load_checkpoint(torch_file(content, tmp_path / "x"))
    assert model.describe()["window"] == [4, 4]
    assert model.describe()["shift"] == [2, 2]
    assert model.normalisation.mean == (1.0, 2.5, 3.0)
    assert model.assumed == {}
    weights = published("cffm")
    content = {"meta": {"config": text}, "state_dict": weights}
    model = load_checkpoint(torch_file(content, tmp_path / "x"))
    assert model.describe()["offsets"] == [-6, -4, -2]
    with pytest.raises(CheckpointError, match=r"offsets is -9,-6,-3 in --set.*-6,-4,-2"):
        load_checkpoint(tmp_path / "x", settings={"offsets": "-9,-6,-3"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model = dict(decode_head=dict(align_corners=True))", "align_corners True"),
        ("norm_cfg = dict(type='SyncBN', eps=1e-3)", "eps 0.001"),
    ],
)
def test_configurations_that_change_the_network_are_refused(
    text: str,
    reason: str,
    tmp_path: Path,
) -> None:
    content = {"meta": {"config": text}, "state_dict": published("segformer")}
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(torch_file(content, tmp_path / "x"))


def test_text_that_cannot_be_parsed_gives_nothing(
    tmp_path: Path,
) -> None:
    for text in ("model = (", "(" * 5000, "a = " + "-" * 5000 + "1", "x = [y for y in z]", "\0"):
        content = {"meta": {"config": text}, "state_dict": published("segformer")}
        model = load_checkpoint(torch_file(content, tmp_path / "x"))
        assert set(model.assumed) == {"mean", "std"}


def test_hyper_parameters_give_names_and_numbers_of_classes_do_not(
    tmp_path: Path,
) -> None:
    weights = published("segformer")
    for parameters, first in (
        ({"classes": 3, "palette": "city"}, "class 0"),
        ({"class_names": ["a", "b", "c"]}, "a"),
    ):
        content = {"state_dict": weights, "hyper_parameters": parameters}
        model = load_checkpoint(torch_file(content, tmp_path / "x"))
        assert model.classes[0].name == first


@pytest.mark.parametrize(
    "stated",
    [{"norm_eps": 5}, {"norm_eps": [0, -1]}, {"norm_eps": "x"}, {"mean": {}}, {"family": [1]}],
)
def test_meaningless_statements_are_rejected(
    stated: dict[str, Any],
    tmp_path: Path,
) -> None:
    metadata = {"model": json.dumps(stated)}
    save_file(published("segformer"), tmp_path / "x", metadata=metadata)
    with pytest.raises(CheckpointError, match=next(iter(stated))):
        load_checkpoint(tmp_path / "x")

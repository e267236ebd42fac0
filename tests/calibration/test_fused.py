"""INT8 by calibration around temporal layers that are one operator each."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import streamseg
from streamseg.calibration.calibrating import CalibrationOptions, calibrate
from streamseg.errors import PluginNotFound
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import export_bundle
from streamseg.export.parity import moving_pattern
from streamseg.plugins.loader import find_library
from streamseg.runtime.bundle.bundle import read_bundle
from tests.export import tiny


def test_layers_keep_their_precision_and_the_rest_becomes_int8(tmp_path: Path) -> None:
    try:
        find_library()
    except PluginNotFound as error:
        pytest.skip(str(error))
    source, target = tmp_path / "layers", tmp_path / "int8"
    export_bundle(tiny.build("tv3s"), source, size=tiny.SIZE, precision="int8-dynamic")
    (tmp_path / "footage/clip").mkdir(parents=True)
    images = moving_pattern(tiny.SIZE, 4)
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"footage/clip/{index}.png"), image)
    clips = open_dataset(f"footage:{tmp_path / 'footage'}", "train", labels=False)
    calibrate(source, target, clips, CalibrationOptions(clips=1, clip_frames=4), report=False)
    manifest = read_bundle(target).manifest
    assert manifest.precision_name == "int8+int8-dynamic"
    assert manifest.precision["attention"] == "int8-dynamic"
    assert manifest.parity["with"].startswith("onnxruntime")
    kinds = [
        [node.op_type for node in onnx.load(path / "step.onnx").graph.node]
        for path in (source, target)
    ]
    for operator in ("WindowedMambaLayer", "MultiHeadAttention"):
        assert kinds[1].count(operator) == kinds[0].count(operator) > 0
    assert "QuantizeLinear" in kinds[1]
    with (
        streamseg.open(source, backend="onnxruntime", threads=1) as before,
        streamseg.open(target, backend="onnxruntime", threads=1) as after,
    ):
        for image in images:
            equal = before.step(image).labels == after.step(image).labels
            assert np.mean(equal) > 0.95

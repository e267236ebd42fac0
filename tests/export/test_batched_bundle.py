"""Bundles of several streams a step: written, compared, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import streamseg
from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.errors import BundleError, ExportError
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import batched_bundle
from streamseg.export.batched_bundle import batch_bundle
from streamseg.export.bundle_smoothing import remember_bundle
from streamseg.export.frame_graph import FrameGraph
from streamseg.export.open_batch import open_graph
from streamseg.export.smoothing import PRESETS
from streamseg.runtime.bundle.bundle import read_bundle
from tests.calibration.conftest import footage
from tests.conftest import TinyBundle
from tests.runtime.batches import write_single
from tests.runtime.toy import write_toy_bundle

__all__ = ["footage"]  # fixture
INT8 = CalibrationOptions(clips=2, clip_frames=4, drift_frames=8)


def check_exact(single: Path, folder: Path) -> None:
    """Streams of a batch are equal to the same alone; its graph opens for Triton."""
    compared = batch_bundle(single, folder, 2).parity["batch"]
    assert (compared["state_relative"], compared["labels_agreement"]) == (0.0, 1.0)
    opened = open_graph(read_bundle(folder).graphs["step"], 2)
    frame = next(entry for entry in onnx.load_from_string(opened).graph.input)
    assert frame.type.tensor_type.shape.dim[0].dim_param


@pytest.mark.parametrize("kind", sorted(PRESETS))
def test_smoothed_network_serves_streams_exactly(
    kind: str, tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    remember_bundle(tiny_bundle("segformer", "fp32"), tmp_path / "smooth", PRESETS[kind])
    check_exact(tmp_path / "smooth", tmp_path / "many")


def test_int8_network_serves_streams_exactly(
    tiny_bundle: TinyBundle, footage: Path, tmp_path: Path
) -> None:
    source = open_dataset(f"footage:{footage}")
    calibrate(tiny_bundle("tv3s", "fp32"), tmp_path / "int8", source, INT8, report=False)
    check_exact(tmp_path / "int8", tmp_path / "many")


def test_bundle_records_what_was_compared_and_keeps_other_entries(tmp_path: Path) -> None:
    single = read_bundle(write_single(tmp_path / "single"))
    manifest = batch_bundle(single.path, tmp_path / "many", 4)
    assert manifest == read_bundle(tmp_path / "many").manifest
    assert manifest.frame.shape == (4, *single.manifest.frame.shape[1:])
    assert [spec.shape[0] for spec in manifest.state] == [4]
    assert manifest.classes == single.manifest.classes
    assert manifest.parity["parent"] == single.identity
    compared = manifest.parity["batch"]
    assert (compared["streams"], compared["state_relative"]) == (3, 0.0)
    assert compared["labels_agreement"] == 1.0


def test_a_graph_whose_streams_get_other_results_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batched_bundle.batch_graph

    def mistaken(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
        made = whole(model, count)
        half = next(entry for entry in made.graph.initializer if entry.name == "half")
        half.CopyFrom(numpy_helper.from_array(np.float32(0.4), "half"))
        return made

    monkeypatch.setattr(batched_bundle, "batch_graph", mistaken)
    with pytest.raises(ExportError, match="differ from the same streams alone"):
        batch_bundle(write_single(tmp_path / "single"), tmp_path / "many", 2)
    assert not (tmp_path / "many").exists()


def test_states_of_schedules_and_wrong_counts_are_refused(tmp_path: Path) -> None:
    single, toy = write_single(tmp_path / "single"), write_toy_bundle(tmp_path / "toy")
    with pytest.raises(ExportError, match="toy cannot be exported for several streams a step: its"):
        batch_bundle(toy, tmp_path / "many", 2)
    for count in (0, 1, 257):
        with pytest.raises(ExportError, match=f"batch is {count}, expected 2 to 256 streams"):
            batch_bundle(single, tmp_path / "many", count)
    batch_bundle(single, tmp_path / "many", 2)
    with pytest.raises(ExportError, match="serves 2 streams a step already"):
        batch_bundle(tmp_path / "many", tmp_path / "more", 4)


def test_what_takes_one_stream_refuses_a_batch(tmp_path: Path) -> None:
    batch_bundle(write_single(tmp_path / "single"), tmp_path / "many", 2)
    bundle, text = read_bundle(tmp_path / "many"), "serves 2 streams a step"
    with pytest.raises(BundleError, match=text):
        FrameGraph(bundle.path)
    with pytest.raises(BundleError, match=text):
        calibrate(bundle.path, tmp_path / "int8", None, CalibrationOptions())


def test_manifest_whose_state_does_not_fit_the_batch_is_damaged(tmp_path: Path) -> None:
    batch_bundle(write_single(tmp_path / "single"), tmp_path / "many", 2)
    path = tmp_path / "many" / "manifest.json"
    content = json.loads(path.read_text())
    content["state"][0]["shape"][0] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="is not carried by each of 2 streams"):
        read_bundle(path.parent)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_exported_network_serves_streams_as_it_serves_each_alone(
    precision: str, tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    single = tiny_bundle("tv3s", precision)
    batch_bundle(single, tmp_path / "many", 2)
    with (
        streamseg.open(single, backend="onnxruntime") as one,
        streamseg.open(tmp_path / "many", backend="onnxruntime") as many,
    ):
        spec = one.manifest.frame
        images = np.random.default_rng(0).integers(
            0, 256, (2, 4, spec.height, spec.width, 3), dtype=np.uint8
        )
        alone, together = ([base.sibling() for _ in range(2)] for base in (one, many))
        for step in range(4):
            for place in range(2):
                together[place].begin(images[place, step])
            for place in range(2):
                want = alone[place].step(images[place, step]).labels
                assert (together[place].finish().labels == want).mean() > 0.999

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import streamseg
from streamseg.errors import BundleError, ExportError
from streamseg.export import export_bundle, load_checkpoint
from streamseg.export.lowering import lowered
from streamseg.export.parity import moving_pattern
from streamseg.runtime.bundle.bundle import read_bundle
from tests.conftest import CPU_OPENINGS
from tests.export.golden import Golden, read_golden
from tests.export.test_checkpoint import tiny

SIZE = (96, 128)


@pytest.fixture(scope="module", params=["tv3s_mit_b0_tiny", "tv3s_swin_narrow"])
def exported(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Golden, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    golden = read_golden(shared, request.param)
    model = load_checkpoint(
        golden.save_checkpoint(folder / "x.pth"), settings={"window": 4, "shift": 2}
    )
    export_bundle(model, folder / "street", size=SIZE, logits=True)
    return golden, folder / "street"


@pytest.mark.data
@pytest.mark.parametrize("opening", CPU_OPENINGS)
def test_bundle_matches_fixtures_at_every_frame(
    exported: tuple[Golden, Path], opening: dict[str, Any]
) -> None:
    golden, path = exported
    with streamseg.open(path, **opening) as stream:
        for t, frame in enumerate(golden.frames):
            result = stream.step(frame)
            assert result.logits is not None
            expected = golden.arrays["logits"][t]
            assert np.abs(result.logits - expected).max() < 5e-4
            second, first = np.sort(expected, axis=0)[-2:]
            clear = first - second > 1e-3
            assert clear.mean() > 0.9
            assert (result.labels == golden.arrays["argmax"][t])[clear].all()
        tensors = stream.snapshot().tensors
    last = len(golden.frames) - 1
    for i in range(8):
        scan = golden.arrays[f"state/ssm/layer{i}"][last]
        assert np.abs(tensors[f"layer{i}.scan"][0] - scan.reshape(-1, *scan.shape[2:])).max() < 5e-4


@pytest.mark.data
def test_graph_is_portable(exported: tuple[Golden, Path]) -> None:
    _, path = exported
    model = onnx.load(path / "step.onnx")
    assert model.ir_version <= 9
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions.pop("") <= 20
    assert set(versions) == {"streamseg"}
    assert {f.name for f in model.functions} == {
        "WindowedCausalConv",
        "WindowedSelectiveScan",
        "UpsampleArgmax",
    }
    windowed = [node for node in model.graph.node if node.domain == "streamseg"]
    assert len(windowed) == 2 * 8 + 1
    assert not [n for n in model.graph.node if n.op_type in ("Scan", "Loop", "If", "NonZero")]
    assert str(path.parent).encode() not in model.SerializeToString()
    assert b"/export/" not in model.SerializeToString()
    indices = [entry for entry in model.graph.initializer if entry.name.startswith("cells.")]
    assert len(indices) == 6  # order, inverse and tail of two geometries, shared by all layers


@pytest.mark.data
def test_inlined_graph_computes_the_same(exported: tuple[Golden, Path]) -> None:
    golden, path = exported
    plain = lowered(onnx.load(path / "step.onnx"))
    assert {node.domain for node in plain.graph.node} == {""}
    session = onnxruntime.InferenceSession(plain.SerializeToString())
    feeds = {entry.name: np.zeros(entry.shape, np.float32) for entry in session.get_inputs()[1:]}
    labels, logits, *_ = session.run(None, {"frame": golden.frames[:1], **feeds})
    assert np.abs(logits[0] - golden.arrays["logits"][0]).max() < 5e-4
    assert labels.dtype == np.uint8


def test_manifest_has_what_the_runtime_needs(tmp_path: Path) -> None:
    report = export_bundle(tiny().eval(), tmp_path / "street", size=(64, 96))
    bundle = read_bundle(tmp_path / "street")
    manifest = bundle.manifest
    assert manifest.frame.shape == (1, 64, 96, 3)
    assert manifest.graphs["step"].outputs == ("labels",)
    assert [spec.name for spec in manifest.state[:2]] == ["layer0.conv", "layer0.scan"]
    assert manifest.model["window"] == [4, 4]
    assert manifest.parity["labels_agreement"] > 0.999
    assert 0 < manifest.parity["state_max_abs"] < 1e-3
    assert report.nodes == manifest.model["nodes"]["step"]
    with streamseg.open(tmp_path / "street") as stream:
        assert stream.step(np.zeros((64, 96, 3), np.uint8)).logits is None


def test_older_bundle_is_replaced_and_other_folders_are_not(tmp_path: Path) -> None:
    target = tmp_path / "street"
    export_bundle(tiny().eval(), target, size=(64, 96))
    first = read_bundle(target).identity
    export_bundle(tiny().eval(), target, size=(64, 128))
    assert read_bundle(target).identity != first
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "a.jpg").write_bytes(b"x")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        export_bundle(tiny().eval(), precious, size=(64, 96))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "street"]


def test_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.export.bundles.PARITY_LIMIT", -1.0)
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_bundle(tiny().eval(), tmp_path / "street", size=(64, 96))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match="size 8x8 is not possible"):
        export_bundle(tiny().eval(), tmp_path / "street", size=(8, 8))


def test_snapshot_and_reset_are_exact(tmp_path: Path) -> None:
    export_bundle(tiny().eval(), tmp_path / "street", size=(64, 96), logits=True)
    frames = moving_pattern((64, 96), 5)
    with streamseg.open(tmp_path / "street", native=False) as stream:
        assert all(stream.step(frame).logits is not None for frame in frames[:2])
        saved = stream.snapshot()
        first = [np.copy(stream.step(frame).logits) for frame in frames[2:]]
        stream.restore(saved)
        again = [np.copy(stream.step(frame).logits) for frame in frames[2:]]
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        stream.reset()
        fresh = [np.copy(stream.step(frame).logits) for frame in frames]
    with streamseg.open(tmp_path / "street", native=False) as stream:
        opened = [np.copy(stream.step(frame).logits) for frame in frames]
    assert all(np.array_equal(a, b) for a, b in zip(fresh, opened, strict=True))
    assert np.array_equal(fresh[2], first[0])


def test_state_matters() -> None:
    model = tiny().eval()
    frames = moving_pattern((64, 96), 2)
    with torch.no_grad():
        state = model.initial_state((64, 96))
        alone, *_ = model(torch.from_numpy(frames[1])[None], *state)
        _, *state = model(torch.from_numpy(frames[0])[None], *state)
        after, *_ = model(torch.from_numpy(frames[1])[None], *state)
    assert (alone - after).abs().max() > 1e-4

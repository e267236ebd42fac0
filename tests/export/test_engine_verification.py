"""Engines are compared with ONNX Runtime before they are kept; each fault is found and refused."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.cli.main import run
from streamseg.errors import BackendError, EngineMismatch
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import engine_build, engine_verification
from streamseg.export.engine_build import BuiltEngine, NetworkSummary, build_engines
from streamseg.export.engine_options import EngineOptions
from streamseg.export.parity import moving_pattern
from streamseg.runtime.backends.engine_files import engine_cache, read_record, sidecar_of
from streamseg.runtime.stream import open_stream
from tests.conftest import TinyBundle
from tests.evaluation.models import write_bundle
from tests.evaluation.trees import make_camvid
from tests.export import tiny
from tests.export.faulty_engines import FAULTS, Fault, read_as_tensorrt
from tests.runtime.backends.conftest import (
    ORIN,
    Machine,
    MakeMachine,
    make_cuda,  # noqa: F401
    make_machine,  # noqa: F401
)
from tests.runtime.backends.fake_tensorrt import fake_engine

Build = Callable[..., list[BuiltEngine]]
CLIP = moving_pattern(tiny.SIZE, 8)


@pytest.fixture
def on(make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:  # noqa: F811
    """A machine whose builder makes fake engines, with a fault inside."""

    def prepare(bundle: Path, fault: Fault | None = None) -> Machine:
        machine = make_machine(bundle=bundle)

        def build(_: Any, __: Any, graph: ModelProto, *___: Any) -> tuple[bytes, NetworkSummary]:
            read = read_as_tensorrt(graph)
            if fault is not None:
                fault(read)
            content = fake_engine(read.SerializeToString(), machine.trt.__version__)
            return content, NetworkSummary()

        monkeypatch.setattr(engine_build, "_build", build)
        monkeypatch.setattr(engine_build, "find_gpu", lambda: ORIN)
        return machine

    return prepare


def build_on(machine: Machine, out: Path | None = None, **options: Any) -> list[BuiltEngine]:
    chosen = EngineOptions(native=False, clip=CLIP, clip_name="drifting noise", **options)
    return build_engines(machine.bundle, out=out, options=chosen)


def test_engines_that_agree_are_kept_with_the_figures(
    on: Callable[..., Machine], tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    built = build_on(on(tiny_bundle("mpvss", "fp32")), tmp_path / "engines")
    assert len(built) == 2
    for entry in built:
        record = read_record(entry.path)
        found = record.verification
        assert found is not None
        assert found == entry.record.verification
        assert found.passed
        assert found.frames >= 20
        assert found.labels > 0.999
        assert found.state <= 1e-5
        assert "onnxruntime" in found.reference


@pytest.mark.parametrize("family", ["mpvss", "tv3s"])
@pytest.mark.parametrize("fault", FAULTS)
def test_engine_with_a_fault_is_refused_with_the_figures(
    family: str, fault: str, on: Callable[..., Machine], tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    machine = on(tiny_bundle(family, "fp32"), FAULTS[fault])
    with pytest.raises(BackendError, match=r"wrong results.*labels agree.*state differs.*--unver"):
        build_on(machine, tmp_path / "engines")
    assert not list(tmp_path.glob("engines/*.engine"))


def test_mode_linear_would_be_refused(
    on: Callable[..., Machine],
    tiny_bundle: TinyBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutation: without the renaming, the parser's nearest sampling is found by the check."""
    graph = "streamseg.export.tensorrt_graph"
    monkeypatch.setattr(f"{graph}._name_interpolation", lambda _: None)
    monkeypatch.setattr(f"{graph}.check_operators", lambda _: None)
    with pytest.raises(BackendError, match="wrong results"):
        build_on(on(tiny_bundle("mpvss", "fp32")), tmp_path / "engines")


def test_unverified_keeps_a_faulty_engine_and_opening_it_warns(
    on: Callable[..., Machine],
    tiny_bundle: TinyBundle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = tiny_bundle("tv3s", "fp32")
    machine = on(bundle, FAULTS["state not fed back"])
    (entry,) = build_on(machine, tmp_path / "engines", unverified=True)
    assert entry.record.verification is not None
    assert not entry.record.verification.passed
    with caplog.at_level(logging.WARNING):
        open_stream(bundle, backend="tensorrt", engine=entry.path, native=False).close()
    assert "failed its check, and its results are wrong" in caplog.text


def test_opening_an_engine_that_was_never_compared_warns(
    on: Callable[..., Machine], tiny_bundle: TinyBundle, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tiny_bundle("tv3s", "fp32")
    on(bundle).build()
    with caplog.at_level(logging.WARNING):
        open_stream(bundle, backend="tensorrt", native=False).close()
    assert "was never compared with ONNX Runtime" in caplog.text


def test_one_class_everywhere_is_not_conclusive(
    on: Callable[..., Machine], tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    machine = on(tiny_bundle("tv3s", "fp32"))
    flat = [np.full((*tiny.SIZE, 3), 128, np.uint8)]
    options = EngineOptions(native=False, clip=flat, clip_name="grey")
    (entry,) = build_engines(machine.bundle, out=tmp_path / "engines", options=options)
    found = entry.record.verification
    assert found is not None
    assert found.classes < 4
    assert found.conclusive == (found.classes >= min(4, len(machine.bundle.manifest.classes)))
    assert ("not conclusive" in found.describe()) == (not found.conclusive)


def test_engine_that_fails_to_run_is_deleted(
    on: Callable[..., Machine], tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    machine = on(tiny_bundle("segformer", "fp32"))
    machine.trt.workspace = 1 << 40
    with pytest.raises(BackendError, match=r"out of memory|execution context"):
        build_on(machine, tmp_path / "engines")
    assert not list(tmp_path.glob("engines/*"))


def test_missing_onnxruntime_is_reported_before_anything_is_built(
    on: Callable[..., Machine],
    tiny_bundle: TinyBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = on(tiny_bundle("segformer", "fp32"))
    monkeypatch.setattr(engine_build, "_build", lambda *_: pytest.fail("built"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"pip install onnxruntime, or build with --unverified"):
        build_on(machine, tmp_path / "engines")


def test_engines_of_different_precisions_are_not_mixed(
    on: Callable[..., Machine], tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    bundle = tiny_bundle("mpvss", "fp32")
    on(bundle).build()  # the cache: both graphs in float32
    sidecars = sorted(engine_cache().glob("*/*.json"))
    assert len(sidecars) == 2
    content = json.loads(sidecars[0].read_text())
    sidecars[0].write_text(json.dumps({**content, "precision": "fp16"}))
    with pytest.raises(EngineMismatch, match="different builds"):
        open_stream(bundle, backend="tensorrt", native=False)
    folder = tmp_path / "mixed"
    folder.mkdir()
    for sidecar in sidecars:
        (folder / sidecar.name).write_bytes(sidecar.read_bytes())
        engine = sidecar.with_suffix(".engine")
        (folder / engine.name).write_bytes(engine.read_bytes())
    with pytest.raises(EngineMismatch, match=r"different builds \(.*fp16"):
        open_stream(bundle, backend="tensorrt", native=False, engine=folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("passed", 1), ("frames", "20"), ("labels", None), ("reference", 3), ("extra", 1)],
)
def test_damaged_verification_is_refused(
    name: str, value: object, on: Callable[..., Machine], tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    (entry,) = build_on(on(tiny_bundle("segformer", "fp32")), tmp_path / "engines")
    sidecar = sidecar_of(entry.path)
    content = json.loads(sidecar.read_text())
    content["verification"][name] = value
    sidecar.write_text(json.dumps(content))
    with pytest.raises(EngineMismatch, match="verification"):
        read_record(entry.path)


def test_bars_follow_the_precision() -> None:
    assert engine_verification.BARS["fp32"][:2] == (0.999, 1e-3)
    assert engine_verification.BARS["fp16"][0] == 0.995


@pytest.mark.parametrize("broken", [False, True])
def test_accuracy_of_an_int8_engine_is_measured_by_the_command_that_scores_the_bundle(
    broken: bool, on: Callable[..., Machine], tmp_path: Path
) -> None:
    """Over the fake engine; the oracle is the same INT8 graph in ONNX Runtime."""
    write_bundle(tmp_path / "plain", logits=False)
    root = make_camvid(tmp_path / "camvid")
    settings = CalibrationOptions(clips=1, clip_frames=2, native=False, drift_frames=4)
    bundle, data = tmp_path / "int8", f"camvid:{root}"
    calibrate(tmp_path / "plain", bundle, open_dataset(data, "train"), settings)
    machine = on(bundle, FAULTS["state not fed back"] if broken else None)
    build_on(machine, unverified=broken)
    figures = {}
    for backend in ("tensorrt", "onnxruntime"):
        out = tmp_path / f"{backend}.json"
        with pytest.raises(SystemExit) as code:
            run(["eval", str(bundle), "--backend", backend, "--no-native", "--dataset", data,
                 "--json", str(out)])  # fmt: skip
        assert code.value.code == 0
        figures[backend] = json.loads(out.read_text())["per_class"]
    assert (figures["tensorrt"] == figures["onnxruntime"]) != broken

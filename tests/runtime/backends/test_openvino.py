"""OpenVINO as a backend: options, descriptions, kept graphs and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.errors import BackendError, BundleError, PluginNotFound
from streamseg.plugins import loader
from streamseg.runtime.backends import (
    BackendOptions,
    compiled_files,
    load_executable,
    openvino,
)
from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.backends.openvino import (
    build_openvino,
    import_openvino,
    release_of,
)
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.runtime.stream import open_stream
from tests.conftest import NO_OPENVINO
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle

pytestmark = NO_OPENVINO


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_toy_bundle(tmp_path / "toy")


SIGNAL_AFTER_STREAMS = """
import os, signal, sys, threading, streamseg
first, second = (streamseg.open(sys.argv[1], backend="openvino", threads=1) for _ in range(2))
first.close(), second.close()
del first, second
third = [streamseg.open(sys.argv[1], backend="openvino", threads=1)]
ending = threading.Thread(target=lambda: third.pop().close())
ending.start(), ending.join()
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
os.kill(os.getpid(), signal.SIGINT)
assert caught
"""


def test_signals_are_handled_after_streams_were_closed(toy: Path) -> None:
    """In the order they came, and in another thread."""
    command = [sys.executable, "-c", SIGNAL_AFTER_STREAMS, str(toy)]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("precision", ["fp32", None])
def test_description_names_what_runs(toy: Path, precision: str | None) -> None:
    with open_stream(toy, backend="openvino", precision=precision, threads=1) as stream:
        version = release_of(import_openvino())
        assert stream.execution.startswith(f"openvino {version} CPU, ")
        assert "1 thread," in stream.execution
        assert ("multipl" in stream.execution) == (precision is None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "TPU"}, r"device 'TPU' is not one of OpenVINO's here; available: .*CPU"),
        ({"threads": 0}, "threads is 0, expected 1 to "),
        ({"threads": 1000}, "threads is 1000, expected 1 to "),
        ({"precision": "f16"}, "precision is 'f16', expected one of"),
        ({"library": Path("x.so")}, "got a relative path"),
    ],
)
def test_impossible_options_are_errors(toy: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((BackendError, PluginNotFound), match=message):
        open_stream(toy, backend="openvino", **options)


@pytest.mark.parametrize("options", [{"device": "CPU"}, {"precision": "bf16"}])
def test_other_backends_refuse_its_options(toy: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="takes neither a device nor a precision"):
        open_stream(toy, backend="onnxruntime", **options)


@pytest.mark.parametrize("device", ["AUTO", "AUTO:GPU,CPU", "MULTI:CPU", "HETERO:CPU"])
def test_device_that_stands_for_others_gives_the_cpus_labels(toy: Path, device: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with open_stream(toy, backend="onnxruntime", native=False) as reference:
        wanted = [reference.step(frame).labels.copy() for frame in frames]
    with open_stream(toy, backend="openvino", device=device) as stream:
        assert f" {device}, the device's default precision, " in stream.execution
        for frame, labels in zip(frames, wanted, strict=True):
            assert np.array_equal(stream.step(frame).labels, labels)
    bundle = read_bundle(toy)
    with pytest.raises(BackendError, match=f"no graph is kept for device '{device}'"):
        build_openvino(bundle, BackendOptions(device=device))
    with pytest.raises(BackendError, match="does not report its precision"):
        open_stream(toy, backend="openvino", device=device, precision="bf16")


def test_graph_that_disagrees_with_the_manifest_is_refused(toy: Path) -> None:
    bundle = read_bundle(toy)
    swapped = replace(bundle, graphs={**bundle.graphs, "step": bundle.graphs["key"]})
    with pytest.raises(BundleError, match="graph 'step' and manifest disagree"):
        load_executable(swapped, "openvino", BackendOptions(threads=1))


def test_graph_that_is_not_onnx_is_rejected(toy: Path) -> None:
    bundle = read_bundle(toy)
    damaged = replace(bundle, graphs={**bundle.graphs, "step": b"\x00" * 64})
    with pytest.raises(BackendError, match=r"OpenVINO .* refuses graph 'step'"):
        load_executable(damaged, "openvino", BackendOptions(threads=1, native=None))


def test_second_start_is_refused_while_a_step_is_under_way(toy: Path) -> None:
    bundle = read_bundle(toy)
    executable = load_executable(bundle, "openvino", BackendOptions(threads=1))
    lane = executable.new_lane()
    lane.start(plan_step(bundle.manifest, 0))
    with pytest.raises(BackendError, match="a step is under way"):
        lane.start(plan_step(bundle.manifest, 1))
    lane.finish()
    with pytest.raises(BackendError, match="no step is under way"):
        lane.finish()
    executable.close()
    with pytest.raises(BackendError, match="the stream is closed"):
        lane.start(plan_step(bundle.manifest, 1))


def test_kept_graphs_are_used_and_damaged_ones_are_not(
    toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)

    def run() -> list[Any]:
        with open_stream(toy, backend="openvino", precision="fp32", threads=1) as stream:
            return [stream.step(frame).labels for frame in frames]

    wanted = run()
    bundle = read_bundle(toy)
    written = build_openvino(bundle, BackendOptions(precision="fp32", threads=1))
    assert len(set(written)) == len(bundle.graphs)
    assert all(path.is_file() for path in written)
    caplog.clear()
    assert np.array_equal(run(), wanted)
    assert "damaged" not in caplog.text
    for path in written:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert np.array_equal(run(), wanted)
    assert caplog.text.count("is damaged; the graph is compiled again") == len(written)


def test_kept_graph_is_found_by_everything_it_depends_on() -> None:
    key = compiled_files.CompiledKey("graph", "2026.4.1", "library", "CPU x", "threads=1")
    changed = [
        replace(key, **{name: "other"})
        for name in ("graph_sha256", "openvino", "library_sha256", "device", "config")
    ]
    assert len({entry.path for entry in [key, *changed]}) == 6


def test_extension_of_another_openvino_is_refused(tmp_path: Path) -> None:
    try:
        library = loader.find_openvino_library(release_of(import_openvino()))
    except PluginNotFound as error:
        pytest.skip(str(error))
    with pytest.raises(PluginNotFound, match=r"compiled for OpenVINO .*, installed is 2099\.1"):
        loader.find_openvino_library("2099.1")
    copy = tmp_path / library.name
    copy.write_bytes(library.read_bytes())
    record = json.loads(library.with_suffix(".json").read_text())
    copy.with_suffix(".json").write_text(json.dumps({**record, "openvino": None}))
    with pytest.raises(PluginNotFound, match="compiled for OpenVINO None"):
        loader.find_openvino_library(release_of(import_openvino()), copy)


def test_heap_is_trimmed_by_the_first_step_of_all_streams(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trimming stops every thread that allocates, so a stream that joins later does not do it."""
    trimmed: list[None] = []
    monkeypatch.setattr(openvino, "trim_heap", lambda: trimmed.append(None))
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with open_stream(toy, backend="openvino") as stream:
        assert not trimmed
        stream.step(frame)
        with stream.sibling() as other:
            other.step(frame)
        stream.step(frame)
    assert len(trimmed) == 1

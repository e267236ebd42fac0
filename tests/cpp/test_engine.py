"""TensorRT in C++: it compiles, and engine files are checked as in Python before one is opened."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from streamseg.errors import EngineMismatch
from streamseg.runtime.backends.engine_files import (
    EngineRecord,
    Machine,
    Verification,
    read_engine,
    sidecar_of,
    write_engine,
)
from streamseg.runtime.backends.gpu import Gpu
from streamseg.runtime.bundle.bundle import digest
from tests.conftest import ROOT
from tests.cpp.conftest import REQUIREMENTS, Build, run
from tests.fuzzing import damage, inputs
from tests.plugins.cuda_builds import need_tensorrt_headers

pytestmark = REQUIREMENTS
GRAPH, ENGINE, PLUGINS = b"a graph", b"an engine of it", "ab" * 32
VERIFIED = Verification(
    passed=True,
    conclusive=True,
    frames=20,
    source="a drawn street",
    classes=7,
    ties=0.0,
    labels=1.0,
    labels_bar=0.99,
    state=0.0,
    logits=0.0,
    error_bar=0.01,
    reference="onnxruntime",
)
RECORD = EngineRecord(
    graph="step",
    graph_sha256=digest(GRAPH),
    flavour="tensorrt",
    version="10.14.1.48",
    gpu="Orin",
    capabilities=("8.7",),
    driver="12.6",
    precision="fp16",
    plugins_sha256=PLUGINS,
    engine_sha256=digest(ENGINE),
    verification=VERIFIED,
)
MACHINE = Machine("tensorrt", "10.14.1.48", Gpu("Orin", "8.7", "12.6"), PLUGINS)
CHANGES: dict[str, dict[str, object]] = {
    "graph": {"graph_sha256": digest(b"another")},
    "flavour": {"flavour": "tensorrt_rtx"},
    "version": {"version": "10.3.0.26"},
    "gpu": {"gpu": "Thor"},
    "capability": {"capabilities": ("8.9",)},
    "driver": {"driver": "13.0"},
    "plugins": {"plugins_sha256": "cd" * 32},
    "engine": {"engine_sha256": digest(b"cut short")},
}
Check = Callable[[Path], subprocess.CompletedProcess[bytes]]


@pytest.fixture
def check(build: Build) -> Check:
    """Function of a folder of engines: what the C++ library says about its engine 'step'."""
    program = build() / "engine_check"
    gpu = MACHINE.gpu
    assert gpu is not None
    machine = [MACHINE.version, gpu.name, gpu.capability, gpu.driver, PLUGINS]

    def run_check(folder: Path) -> subprocess.CompletedProcess[bytes]:
        command = [str(program), str(folder), digest(GRAPH), *machine]
        return subprocess.run(command, capture_output=True, check=False)

    return run_check


def accepted_by_python(folder: Path) -> bool:
    try:
        read_engine(folder / "step.engine", graph=GRAPH, machine=MACHINE)
    except EngineMismatch:
        return False
    return True


def test_engine_that_fits_is_read(check: Check, tmp_path: Path) -> None:
    write_engine(tmp_path / "step.engine", ENGINE, RECORD)
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (0, ENGINE)
    assert accepted_by_python(tmp_path)


@pytest.mark.parametrize("change", CHANGES)
def test_engine_of_another_build_is_refused(check: Check, change: str, tmp_path: Path) -> None:
    record = dataclasses.replace(RECORD, **CHANGES[change])  # type: ignore[arg-type]
    write_engine(tmp_path / "step.engine", ENGINE, record)
    done = check(tmp_path)
    assert done.returncode == 4  # STREAMSEG_MISMATCH
    assert b"Run: streamseg build" in done.stderr
    assert not accepted_by_python(tmp_path)


@pytest.mark.parametrize(
    "verification", [None, dataclasses.replace(VERIFIED, passed=False)], ids=["never", "failed"]
)
def test_engine_that_was_not_compared_is_refused(
    check: Check, verification: Verification | None, tmp_path: Path
) -> None:
    """Python warns when it opens one; this library has nowhere to print."""
    record = dataclasses.replace(RECORD, verification=verification)
    write_engine(tmp_path / "step.engine", ENGINE, record)
    done = check(tmp_path)
    assert done.returncode == 4
    assert b"was never compared with ONNX Runtime, or differed from it" in done.stderr


def test_record_of_the_engine_that_is_there_counts(check: Check, tmp_path: Path) -> None:
    """A build that was killed between the new sidecar and the new engine."""
    newer = dataclasses.replace(RECORD, engine_sha256=digest(b"newer"), precision="int8")
    path = tmp_path / "step.engine"
    path.write_bytes(ENGINE)
    sidecar_of(path).write_text(newer.to_json(previous=RECORD))
    assert check(tmp_path).stdout == ENGINE
    assert accepted_by_python(tmp_path)


def test_damaged_sidecars_are_refused_without_a_fault(check: Check, tmp_path: Path) -> None:
    write_engine(tmp_path / "step.engine", ENGINE, RECORD)
    sidecar = sidecar_of(tmp_path / "step.engine")
    content, rng = sidecar.read_bytes(), random.Random(3)
    for _ in range(inputs(60)):
        sidecar.write_bytes(damage(content, rng))
        done = check(tmp_path)
        assert done.returncode in (0, 4), done.stderr
        if done.returncode == 0:  # nothing that counts was damaged
            assert json.loads(sidecar.read_bytes())["engine_sha256"] == RECORD.engine_sha256


def test_tensorrt_backend_compiles() -> None:
    """Against TensorRT's headers; CUDA's are those of the tests, whose types are the same."""
    includes = [need_tensorrt_headers(), ROOT / "tests/native/cuda_twin"]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wno-sign-conversion"]
    flags += [f"-I{ROOT / 'cpp/src'}", f"-I{ROOT / 'cpp/include'}"]
    flags += [part for path in includes for part in ("-isystem", str(path))]
    run("c++", *flags, "-fsyntax-only", ROOT / "cpp/src/tensorrt.cpp")

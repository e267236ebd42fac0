"""Missing, invalid and failing parts, and the messages that the user gets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import streamseg
from streamseg.errors import BackendError, EngineMismatch, PluginNotFound
from streamseg.runtime.backends import tensorrt as backend
from streamseg.runtime.backends.engine_files import EngineRecord, read_record, write_engine
from streamseg.runtime.backends.gpu import Gpu
from streamseg.runtime.loop.member import MemberOptions
from streamseg.runtime.loop.pipeline import run_stream
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sinks import VideoSink
from streamseg.runtime.sources import open_source
from streamseg.runtime.video.overlay import Overlay
from tests.plugins.cuda_builds import write_records
from tests.runtime.backends.conftest import Machine, MakeMachine
from tests.runtime.backends.fake_cuda import cudaError_t
from tests.runtime.backends.fake_tensorrt import fake_engine
from tests.runtime.toy import HEIGHT, WIDTH

FRAME = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


def open_engine(machine: Machine, **options: Any) -> streamseg.Stream:
    return streamseg.open(machine.bundle.path, backend="tensorrt", **options)


def test_no_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_gpu", lambda: None)
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.*streamseg doctor"):
        open_engine(machine)


def test_cuda_finds_no_gpu(machine: Machine) -> None:
    machine.cuda.devices = 0
    with pytest.raises(BackendError, match=r"cudaErrorNoDevice.*streamseg doctor"):
        open_engine(machine)


def test_no_tensorrt(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"TensorRT is not installed.*streamseg doctor"):
        open_engine(machine)


def test_tensorrt_too_old(make_machine: MakeMachine) -> None:
    machine = make_machine(version="8.5.2")
    with pytest.raises(BackendError, match=r"TensorRT is 8\.5\.2, expected 10\.0 or newer"):
        open_engine(machine)


def test_no_cuda_python(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendError, match=r"cuda-python is not installed.*pip install"):
        open_engine(machine)


def test_no_engine(make_machine: MakeMachine) -> None:
    machine = make_machine()
    with pytest.raises(EngineMismatch, match=r"no engine of graph .* Run: streamseg build .*toy"):
        open_engine(machine)
    with pytest.raises(EngineMismatch, match=r"step\.engine is missing"):
        open_engine(machine, engine="step.engine")


def rewrite(machine: Machine, folder: Path, **fields: Any) -> None:
    for path in machine.build(folder):
        write_engine(path, path.read_bytes(), replace(read_record(path), **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpu": "RTX 4090", "capabilities": ("8.9",)}, r"for 'RTX 4090' \(8\.9\); this machine"),
        ({"version": "10.13.0"}, r"with tensorrt 10\.13\.0; this machine has tensorrt 10\.3\.0"),
        ({"flavour": "tensorrt_rtx"}, r"with tensorrt_rtx 10\.3\.0; this machine has tensorrt"),
        ({"graph_sha256": "sha256:" + "0" * 64}, "the bundle was exported again since"),
        ({"plugins_sha256": "5" * 64}, "was built with plugin library 555555555555"),
    ],
)
@pytest.mark.parametrize("place", ["folder", "cache"])
def test_engine_of_another_machine_graph_or_library(
    make_machine: MakeMachine, tmp_path: Path, fields: dict[str, Any], message: str, place: str
) -> None:
    machine = make_machine()
    folder = tmp_path / ("cache/streamseg/engines/x" if place == "cache" else "engines")
    rewrite(machine, folder, **fields)
    if place == "cache" and "graph_sha256" in fields:
        message = "no engine of graph"
    with pytest.raises(EngineMismatch, match=message):
        open_engine(machine, engine=None if place == "cache" else folder)


def test_the_cache_gives_the_engine_that_fits(machine: Machine, tmp_path: Path) -> None:
    rewrite(machine, tmp_path / "cache/streamseg/engines/a", version="9.9")
    rewrite(machine, tmp_path / "cache/streamseg/engines/z", gpu="another")
    with open_engine(machine) as stream:
        stream.step(FRAME)


def test_engine_of_a_folder_and_of_a_file(make_machine: MakeMachine, tmp_path: Path) -> None:
    machine = make_machine()
    paths = machine.build(tmp_path / "engines")
    with streamseg.open(machine.bundle.path, engine=tmp_path / "engines") as stream:
        assert stream.execution.startswith("tensorrt ")
    with pytest.raises(BackendError, match="is one engine; give the folder of all of them"):
        open_engine(machine, engine=paths[0])
    with pytest.raises(BackendError, match="opens no engine; use --backend tensorrt"):
        streamseg.open(machine.bundle.path, backend="onnxruntime", engine=paths[0])


def test_truncated_engine(make_machine: MakeMachine, tmp_path: Path) -> None:
    machine = make_machine()
    path = machine.build(tmp_path / "engines")[0]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(EngineMismatch, match="it was cut short or changed"):
        open_engine(machine, engine=tmp_path / "engines")
    assert machine.cuda.calls.total() == 0, "nothing was opened"


def test_engine_without_sidecar(make_machine: MakeMachine, tmp_path: Path) -> None:
    machine = make_machine()
    machine.build(tmp_path / "engines")[0].with_suffix(".json").unlink()
    with pytest.raises(EngineMismatch, match="no readable sidecar"):
        open_engine(machine, engine=tmp_path / "engines")


def replace_engines(machine: Machine, folder: Path, change: Callable[[bytes], bytes]) -> None:
    """Engines whose sidecars promise what their bytes do not hold."""
    for path, graph in zip(machine.build(folder), machine.bundle.graphs.values(), strict=True):
        content = change(graph)
        record: EngineRecord = machine.record(path.stem, content)
        write_engine(path, content, record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"not an engine", "does not open engine .* kEXPECTED_MAGIC_TAG"),
        (lambda graph: fake_engine(graph, "10.4.0"), "does not open engine .* Version tag"),
    ],
)
def test_engine_that_tensorrt_refuses(
    make_machine: MakeMachine, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    machine = make_machine()
    replace_engines(machine, tmp_path / "engines", change)
    with pytest.raises(BackendError, match=message):
        open_engine(machine, engine=tmp_path / "engines")


def test_engine_of_other_tensors(make_machine: MakeMachine, tmp_path: Path) -> None:
    machine = make_machine()
    other = machine.bundle.graphs["warm"]
    replace_engines(machine, tmp_path / "engines", lambda _: fake_engine(other, "10.3.0"))
    with pytest.raises(
        EngineMismatch, match=r"and the manifest disagree about input 'past\.0\.in'"
    ):
        open_engine(machine, engine=tmp_path / "engines")


def test_plugins_that_are_not_there(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(PluginNotFound, match="TensorRT plugin library"):
        open_engine(machine, native=True, library=tmp_path / "absent.so")


def put_library(folder: Path, *, version: str = streamseg.__version__) -> Path:
    library = folder / "libstreamseg_tensorrt.so"
    library.write_bytes(b"a plugin library")
    (folder / "libstreamseg_cuda.so").write_bytes(b"kernels")
    write_records(folder, version=version)
    return library


def test_plugins_of_another_version(machine: Machine, tmp_path: Path) -> None:
    library = put_library(tmp_path, version="0.0.1")
    with pytest.raises(PluginNotFound, match=r"is of streamseg 0\.0\.1"):
        open_engine(machine, library=library)


def test_plugins_beside_other_kernels_are_not_loaded(machine: Machine, tmp_path: Path) -> None:
    library = put_library(tmp_path)
    (tmp_path / "libstreamseg_cuda.so").write_bytes(b"other kernels")
    with pytest.raises(PluginNotFound, match=r"libstreamseg_cuda\.so.*changed or damaged"):
        open_engine(machine, library=library)
    assert machine.trt.registry.loaded == []


def test_plugins_are_loaded_once_and_by_absolute_path(
    make_machine: MakeMachine, tmp_path: Path
) -> None:
    machine = make_machine()
    library = put_library(tmp_path)
    rewrite(machine, tmp_path / "engines", plugins_sha256=backend.hash_library(library))
    for _ in range(2):
        with open_engine(machine, engine=tmp_path / "engines", library=library) as stream:
            assert "plugins" in stream.execution
    assert machine.trt.registry.loaded == [str(library)]


def test_native_refuses_an_engine_of_the_lowering(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match="built from the lowering, and --native asks"):
        open_engine(machine, native=True, library=put_library(tmp_path))


def test_gpu_memory_runs_out_for_buffers(machine: Machine) -> None:
    machine.cuda.memory = 1500
    with pytest.raises(BackendError, match=r"cudaMalloc.*out of memory.*smaller --size"):
        open_engine(machine)
    assert machine.cuda.held() == {}, "what was made is given back"


def test_gpu_memory_runs_out_for_the_engine(machine: Machine) -> None:
    machine.trt.most_contexts = 1
    with pytest.raises(BackendError, match=r"no execution context .* of 1024 MiB of GPU memory"):
        open_engine(machine)
    assert machine.cuda.held() == {}


@pytest.mark.parametrize("call", ["cudaEventSynchronize", "cudaGraphLaunch", "cudaMemcpyAsync"])
def test_cuda_error_in_the_middle_leaves_a_playable_video(
    machine: Machine, tmp_path: Path, call: str
) -> None:
    out = tmp_path / "out.mp4"
    with open_engine(machine) as stream, open_source("synthetic:street?size=48x64") as source:
        machine.cuda.fail(call, cudaError_t.cudaErrorIllegalAddress, after=30)
        overlay = Overlay(stream.manifest.classes, opacity=0.5, legend=False)
        message = rf"{call}.*cudaErrorIllegalAddress.*start the program again.*kept: "
        with pytest.raises(BackendError, match=message):
            run_stream(
                lambda run_job: Session(stream, StatePolicy(check_every=0), run_job=run_job),
                source,
                overlay,
                [VideoSink(out, 25)],
                options=MemberOptions(limit=200),
            )
        with pytest.raises(BackendError):
            stream.step(FRAME)
    with av.open(str(out)) as video:
        assert 5 <= sum(1 for _ in video.decode(video=0)) <= 30


def test_a_lost_context_lets_the_stream_close(machine: Machine) -> None:
    stream = open_engine(machine)
    machine.cuda.fail("cudaStreamWaitEvent", cudaError_t.cudaErrorIllegalAddress)
    with pytest.raises(BackendError):
        stream.step(FRAME)
    stream.close()
    stream.close()


def test_closed_stream_is_reported(machine: Machine) -> None:
    stream = open_engine(machine)
    lane = stream._lane
    stream.close()
    with pytest.raises(BackendError, match="the stream is closed"):
        lane.start(None)  # type: ignore[arg-type]


def test_gpu_of_another_name_with_the_same_capability(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "find_gpu", lambda: Gpu("Orin NX", "8.7", "12.6"))
    with pytest.raises(EngineMismatch, match=r"for 'Orin' \(8\.7\); this machine has 'Orin NX'"):
        open_engine(machine)


def test_command_line_streams_through_engines_and_prints_errors_on_one_line(
    make_machine: MakeMachine, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from streamseg.cli.main import cli

    machine = make_machine()
    machine.build(tmp_path / "engines")
    out = tmp_path / "labels"
    arguments = ["run", str(machine.bundle.path), "synthetic:street?size=48x64"]
    arguments += ["--labels", str(out), "--frames", "5", "--backend", "tensorrt"]
    done = CliRunner().invoke(cli, [*arguments, "--engine", str(tmp_path / "engines")])
    assert done.exit_code == 0, done.output
    assert "tensorrt 10.3.0 on 'Orin' (8.7)" in done.output
    assert len(list(out.glob("*.png"))) == 5
    failed = CliRunner().invoke(cli, [*arguments, "--engine", str(tmp_path)])
    assert isinstance(failed.exception, EngineMismatch)
    assert "is missing. Run: streamseg build" in str(failed.exception)

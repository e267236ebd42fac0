"""ONNX Runtime's CUDA backend on a device that does what a real one does, against the CPU."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
import pytest

import streamseg
from streamseg.errors import BackendError, PluginNotFound, StreamsegError
from streamseg.runtime.backends import onnxruntime_cuda as backend
from streamseg.runtime.backends import onnxruntime_cuda_lane as lanes
from streamseg.runtime.backends.interface import plan_step
from tests.runtime.backends.conftest import CudaMachine, MakeCudaMachine
from tests.runtime.backends.fake_cuda import cudaError_t
from tests.runtime.backends.test_device_frames import Buffer, read_labels
from tests.runtime.backends.test_tensorrt import frames, run, same
from tests.runtime.toy import HEIGHT, MANIFEST, WIDTH, write_toy_bundle

PERIOD = 12  # steps after which the toy's plans recur; two slots fit into it


@pytest.fixture
def machine(make_cuda_machine: MakeCudaMachine) -> CudaMachine:
    return make_cuda_machine()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("version", ["1.31.1", "1.17.3"])
def test_labels_and_logits_are_those_of_the_cpu_over_three_periods(
    make_cuda_machine: MakeCudaMachine, seed: int, version: str
) -> None:
    machine = make_cuda_machine(version, seed=seed)
    with machine.open() as gpu, machine.open_cpu() as cpu:
        assert "CUDA on 'H200' (9.0), lowering (requested)" in gpu.execution
        assert same(run(gpu, frames(3 * PERIOD + 5)), run(cpu, frames(3 * PERIOD + 5)))


@pytest.mark.parametrize("seed", range(3))
def test_resets_snapshots_and_siblings_follow_the_cpu(
    make_cuda_machine: MakeCudaMachine, seed: int
) -> None:
    machine = make_cuda_machine(seed=seed)
    with machine.open() as gpu, machine.open_cpu() as cpu:
        run(gpu, frames(9)), run(cpu, frames(9))
        saved, expected = gpu.snapshot(), cpu.snapshot()
        for name, content in expected.tensors.items():
            assert np.array_equal(saved.tensors[name], content)
        wanted = run(cpu, frames(12, seed=3))
        assert same(run(gpu, frames(12, seed=3)), wanted)
        other = gpu.sibling()
        other.restore(saved)
        assert same(run(other, frames(12, seed=3)), wanted)
        other.close()
        gpu.reset(), cpu.reset()
        assert same(run(gpu, frames(5)), run(cpu, frames(5)))
        gpu.restore(saved)
        assert same(run(gpu, frames(12, seed=3)), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_steps_overlap_and_keep_their_order(make_cuda_machine: MakeCudaMachine, seed: int) -> None:
    machine = make_cuda_machine(seed=seed)
    images = frames(2 * PERIOD, seed=seed)
    with machine.open() as gpu, machine.open_cpu() as cpu:
        assert gpu.depth == 2
        wanted = run(cpu, images)
        got = [(r.labels.copy(), np.array(r.logits)) for r in gpu.steps_through(images)]
        assert same(got, wanted)


def test_every_step_that_recurs_is_captured_at_opening_and_replayed(machine: CudaMachine) -> None:
    with machine.open() as stream:
        plans = {plan_step(stream.manifest, step) for step in range(100)}
        captured = sum(session.captured for session in machine.runtime.sessions)
        assert captured == 2 * len(plans), "once for each slot"
        before = sum(session.ran for session in machine.runtime.sessions)
        assert not any(content.any() for content in stream.snapshot().tensors.values())
        run(stream, frames(40))
        assert sum(session.captured for session in machine.runtime.sessions) == captured
        assert sum(session.replayed for session in machine.runtime.sessions) == 40
        assert sum(session.ran for session in machine.runtime.sessions) == before + 40


def test_streams_stepped_in_other_threads_replay_the_same_graphs(machine: CudaMachine) -> None:
    """ONNX Runtime's graphs belong to the thread that captured them."""
    with machine.open() as gpu, machine.open_cpu() as cpu:
        wanted = run(cpu, frames(8))
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.extend(run(gpu, frames(8))))
        thread.start()
        thread.join()
        assert same(got, wanted)
        assert sum(session.replayed for session in machine.runtime.sessions) == 8


def test_a_step_allocates_nothing_and_the_state_stays(machine: CudaMachine) -> None:
    with machine.open() as stream:
        run(stream, frames(4))
        before = machine.cuda.calls.copy()
        for image in frames(20):
            stream.step(image)
        for call in ("cudaMalloc", "cudaHostAlloc", "cudaEventCreateWithFlags", "cudaFree"):
            assert machine.cuda.calls[call] == before[call], call
        copies = machine.cuda.calls["cudaMemcpyAsync"] - before["cudaMemcpyAsync"]
        assert copies == 2 * 20, "the frame up and the labels down; nobody asked for logits"


def test_buffers_of_a_closed_stream_serve_the_next_one(machine: CudaMachine) -> None:
    """ONNX Runtime cannot release captured graphs: cameras that come and go must not add up."""
    with machine.open() as stream, machine.open_cpu() as cpu:
        wanted = run(cpu, frames(5))
        with stream.sibling() as other:
            run(other, frames(7))
        held = machine.cuda.held()
        captured = sum(session.captured for session in machine.runtime.sessions)
        for _ in range(5):
            with stream.sibling() as other:
                assert same(run(other, frames(5)), wanted)
        assert machine.cuda.held() == held
        assert sum(session.captured for session in machine.runtime.sessions) == captured


@pytest.mark.parametrize("tells", [True, False], ids=["placement known", "placement unknown"])
@pytest.mark.parametrize("seed", range(3))
def test_inputs_whose_consumer_is_on_the_host_are_bound_for_every_step(
    make_cuda_machine: MakeCudaMachine, tells: bool, seed: int
) -> None:
    machine = make_cuda_machine(seed=seed)
    machine.runtime.host_inputs = {"frame", "trace.in"}
    machine.runtime.tells_placement = tells
    with machine.open() as gpu, machine.open_cpu() as cpu:
        assert same(run(gpu, frames(2 * PERIOD)), run(cpu, frames(2 * PERIOD)))
        assert sum(session.captured for session in machine.runtime.sessions) == 0


def test_steps_beyond_the_limit_of_graphs_run_without_one(
    machine: CudaMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_GRAPHS", 6)
    with machine.open() as gpu, machine.open_cpu() as cpu:
        assert same(run(gpu, frames(2 * PERIOD)), run(cpu, frames(2 * PERIOD)))
        assert sum(session.captured for session in machine.runtime.sessions) == 6


def test_a_capture_that_fails_costs_the_graphs_and_nothing_else(
    machine: CudaMachine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.runtime.capture_fails = (
        "Error in execution: /onnxruntime_src/cuda_call.cc:154 std::conditional_t<THRW, void, "
        "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) [with ERRTYPE = "
        "cudaError; bool THRW = true] CUDA failure 900: operation not permitted when capturing ; "
        "GPU=0 ; hostname=h ; file=rnn_impl.cc ; line=99 ; expr=cudaStreamSynchronize(nullptr); "
    )
    with machine.open() as gpu, machine.open_cpu() as cpu:
        assert same(run(gpu, frames(PERIOD)), run(cpu, frames(PERIOD)))
    assert "running without CUDA graphs" in caplog.text
    assert "failed: CUDA: operation not permitted when capturing" in caplog.text
    assert "std::" not in caplog.text


@pytest.mark.parametrize("ordered", [False, True], ids=["ready", "on a stream"])
@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("seed", range(3))
def test_frames_on_host_and_device_mix(
    make_cuda_machine: MakeCudaMachine, ordered: bool, integrated: bool, seed: int
) -> None:
    machine = make_cuda_machine(seed=seed, integrated=integrated)
    cuda = machine.cuda
    stream = cuda.cudaStreamCreateWithFlags(1)[1] if ordered else None
    pool = [Buffer(cuda, (HEIGHT, WIDTH, 3), offset=3 * place) for place in range(3)]
    with machine.open() as gpu, machine.open_cpu() as cpu:
        for step, image in enumerate(frames(3 * PERIOD, seed=seed)):
            wanted = cpu.step(image).labels
            if step % 4 == 3:
                assert np.array_equal(gpu.step(image).labels, wanted)
                continue
            frame = pool[step % 3]
            frame.stream = stream
            frame.fill(image)
            assert np.array_equal(read_labels(cuda, gpu.step_device(frame).labels), wanted)
    for frame in pool:
        frame.free()
    if stream is not None:
        cuda.cudaStreamDestroy(stream)


def test_an_integrated_gpu_reads_frames_where_the_host_wrote_them(
    make_cuda_machine: MakeCudaMachine,
) -> None:
    machine = make_cuda_machine(integrated=True)
    with machine.open() as gpu, machine.open_cpu() as cpu:
        before = machine.cuda.calls["cudaMemcpyAsync"]
        images = frames(2 * PERIOD)
        wanted = [cpu.step(image).labels.copy() for image in images]
        got = [result.labels.copy() for result in gpu.steps_through(images)]
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
        assert machine.cuda.calls["cudaMemcpyAsync"] - before == 2 * PERIOD, "labels only"


def test_logits_of_an_earlier_step_are_refused(machine: CudaMachine) -> None:
    with machine.open() as stream:
        first, second = stream.step(frames(1)[0]), stream.step(frames(2)[1])
        assert second.logits is not None
        with pytest.raises(StreamsegError, match="read them before the stream's next step"):
            first.logits  # noqa: B018 - reading is what fails


def test_without_the_cuda_provider_the_package_is_named(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(BackendError, match=r"no CUDA provider. Run: pip install .*\[cuda\]'"):
        streamseg.open(write_toy_bundle(tmp_path / "toy"), backend="cuda")


def test_without_a_gpu_the_doctor_is_named(
    machine: CudaMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "find_gpu", lambda: None)
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.*streamseg doctor"):
        machine.open()


def test_provider_that_does_not_load_is_an_error(machine: CudaMachine) -> None:
    machine.runtime.provider_loads = False
    with pytest.raises(BackendError, match="cannot load its CUDA provider: CUDA or cuDNN"):
        machine.open()


def test_native_true_requires_the_library(machine: CudaMachine, tmp_path: Path) -> None:
    with pytest.raises(PluginNotFound, match="ONNX Runtime CUDA operator library"):
        streamseg.open(machine.path, backend="cuda", native=True, library=tmp_path / "absent.so")
    with pytest.raises(BackendError, match="opens no engine; use --backend tensorrt"):
        streamseg.open(machine.path, backend="cuda", engine=tmp_path)


class Settings:
    """Session options that take any operator library."""

    log_severity_level = 2

    def register_custom_ops_library(self, path: str) -> None:
        """Nothing to load."""


@pytest.mark.parametrize(
    ("precision", "native", "version", "switch"),
    [
        ("float32", True, "1.31.1", "0"),
        ("float32", True, "1.17.3", None),
        ("float16", True, "1.31.1", None),
        ("float16", False, "1.31.1", "0"),
    ],
)
def test_tf32_is_switched_off_where_the_graph_multiplies_float32(
    make_cuda_machine: MakeCudaMachine,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    native: bool,
    version: str,
    switch: str | None,
) -> None:
    """``use_tf32=0`` takes tensor cores from float16 too, so only where float32 is multiplied."""
    machine = make_cuda_machine(version)
    written = machine.path / MANIFEST
    content = json.loads(written.read_text())
    content["precision"] = {"layers": precision, "rest": "float32"}
    written.write_text(json.dumps(content))
    monkeypatch.setattr(machine.runtime, "SessionOptions", Settings, raising=False)
    monkeypatch.setattr(backend, "find_ort_cuda_library", lambda _: "ours.so")
    with streamseg.open(machine.path, backend="cuda", native=native):
        found = {session.options.get("use_tf32") for session in machine.runtime.sessions}
    assert found == {switch}


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (cudaError_t.cudaErrorDevicesUnavailable, "another process holds the GPU"),
        (cudaError_t.cudaErrorInsufficientDriver, "older than the CUDA runtime"),
    ],
)
def test_a_gpu_that_is_taken_and_a_driver_that_is_too_old(
    machine: CudaMachine, code: cudaError_t, advice: str
) -> None:
    machine.cuda.fail("cudaSetDevice", code)
    with pytest.raises(BackendError, match=advice):
        machine.open()


def test_gpu_memory_runs_out_while_opening(make_cuda_machine: MakeCudaMachine) -> None:
    machine = make_cuda_machine(memory=1500)
    with pytest.raises(BackendError, match=r"out of memory.*smaller --size"):
        machine.open()
    assert machine.cuda.held() == {}


def test_gpu_memory_runs_out_in_the_middle_and_the_video_is_playable(
    machine: CudaMachine, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from streamseg.cli.main import cli

    real = machine.runtime.InferenceSession
    count = 0

    def open_session(*given: Any, **options: Any) -> Any:
        session = real(*given, **options)
        run_one = getattr(session, "run_with_iobinding", None)

        def run_some(binding: Any, run_options: Any) -> None:
            nonlocal count
            count += 1
            if count > 80:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 12345")
            run_one(binding, run_options)

        session.run_with_iobinding = run_some
        return session

    machine.runtime.InferenceSession = open_session  # type: ignore[method-assign]
    out = tmp_path / "out.mp4"
    arguments = ["run", str(machine.path), "synthetic:street?size=48x64"]
    arguments += ["--frames", "200", "--backend", "cuda", "--no-native", "--out", str(out)]
    failed = CliRunner().invoke(cli, arguments)
    assert isinstance(failed.exception, BackendError)
    assert "the GPU is out of memory" in str(failed.exception)
    assert "kept: " in str(failed.exception)
    with av.open(str(out)) as video:
        assert sum(1 for _ in video.decode(video=0)) >= 5

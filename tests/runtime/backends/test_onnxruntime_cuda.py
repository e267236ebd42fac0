"""ONNX Runtime's CUDA backend, with the CPU as its device: the same calls, real ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import streamseg
from streamseg.errors import BackendError, PluginNotFound
from streamseg.runtime.backends import onnxruntime_cuda as backend
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.backends.gpu import Gpu
from streamseg.runtime.backends.interface import plan_step
from tests.runtime.backends.test_tensorrt import frames, run, same
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


@pytest.fixture
def cpu_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "DEVICE", "cpu")
    monkeypatch.setattr(backend, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(backend, "find_gpu", lambda: Gpu("RTX 4090", "8.9", "13.0"))


def open_both(toy: Path) -> tuple[streamseg.Stream, streamseg.Stream]:
    options: dict[str, Any] = {"native": False}
    return streamseg.open(toy, backend="cuda", **options), streamseg.open(toy, **options)


@pytest.mark.usefixtures("cpu_device")
def test_labels_and_logits_are_those_of_the_cpu_backend(toy: Path) -> None:
    gpu, cpu = open_both(toy)
    with gpu, cpu:
        assert "CUDA on 'RTX 4090' (8.9), lowering (as asked)" in gpu.execution
        assert same(run(gpu, frames(30)), run(cpu, frames(30)))


@pytest.mark.usefixtures("cpu_device")
def test_resets_snapshots_and_siblings_follow_the_cpu(toy: Path) -> None:
    gpu, cpu = open_both(toy)
    with gpu, cpu:
        run(gpu, frames(9)), run(cpu, frames(9))
        saved, expected = gpu.snapshot(), cpu.snapshot()
        for name, content in expected.tensors.items():
            assert np.array_equal(saved.tensors[name], content)
        wanted = run(cpu, frames(12, seed=3))
        assert same(run(gpu, frames(12, seed=3)), wanted)
        other = gpu.sibling()
        other.restore(saved)
        assert same(run(other, frames(12, seed=3)), wanted)
        gpu.reset(), cpu.reset()
        assert same(run(gpu, frames(5)), run(cpu, frames(5)))
        gpu.restore(saved)
        assert same(run(gpu, frames(12, seed=3)), wanted)


@pytest.mark.usefixtures("cpu_device")
def test_state_values_are_made_once_and_stay(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    def count(shape: Any, kind: Any, device: str = "cpu", index: int = 0) -> Any:
        made.append(device)
        return original(shape, kind, device, index)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", staticmethod(count))
    with streamseg.open(toy, backend="cuda", native=False) as stream:
        assert len(made) == 2 + 3 + 1, "a carried pair, three ring slots, a key"
        lane: Any = stream._lane
        monkeypatch.setattr(
            lane, "read", lambda *_: pytest.fail("a step read state back"), raising=True
        )
        run(stream, frames(26))
        assert len(made) == 6
        assert len(lane._bindings) == len({plan_step(stream.manifest, t) for t in range(26)})


@pytest.mark.usefixtures("cpu_device")
def test_frames_in_device_memory_give_labels_in_device_memory(toy: Path) -> None:
    gpu, cpu = open_both(toy)
    with gpu, cpu:
        for step, image in enumerate(frames(20)):
            batch = np.ascontiguousarray(image[None])
            frame = DeviceArray(batch.ctypes.data, batch.shape, "uint8")
            labels = gpu._lane.run_device(plan_step(gpu.manifest, step), frame)
            assert (labels.shape, labels.dtype, labels.stream) == ((HEIGHT, WIDTH), "uint8", 0)
            held = (np.ctypeslib.ctypes.c_uint8 * labels.nbytes).from_address(labels.pointer)
            ours = np.frombuffer(held, np.uint8).reshape(labels.shape)
            assert np.array_equal(ours, cpu.step(image).labels)


def test_without_the_cuda_provider_the_package_is_named(toy: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(BackendError, match=r"no CUDA provider. Run: pip install 'streamseg\[cuda"):
        streamseg.open(toy, backend="cuda")


def test_without_a_gpu_the_doctor_is_named(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(backend, "find_gpu", lambda: None)
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.*streamseg doctor"):
        streamseg.open(toy, backend="cuda")


@pytest.mark.usefixtures("cpu_device")
def test_provider_that_does_not_load_is_an_error(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["Other"])
    with pytest.raises(BackendError, match="cannot load its CUDA provider: CUDA or cuDNN"):
        streamseg.open(toy, backend="cuda", native=False)


@pytest.mark.usefixtures("cpu_device")
def test_native_true_needs_the_library(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginNotFound, match="ONNX Runtime CUDA operator library"):
        streamseg.open(toy, backend="cuda", native=True, library=tmp_path / "absent.so")
    with pytest.raises(BackendError, match="opens no engine; use --backend tensorrt"):
        streamseg.open(toy, backend="cuda", engine=tmp_path)

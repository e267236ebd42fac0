"""Frames and labels in device memory, steps that overlap, and the PyCUDA sample."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import streamseg
from streamseg.errors import BackendError, FrameMismatch
from tests.runtime.backends.conftest import Machine, MakeMachine
from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_device import Work
from tests.runtime.backends.test_tensorrt import frames, open_both, run, same
from tests.runtime.toy import HEIGHT, WIDTH

SAMPLE = Path(__file__).parents[3] / "samples/pycuda_stream.py"


class Buffer:
    """Device memory of another library, written on that library's stream, or at once."""

    def __init__(
        self, cuda: FakeCuda, shape: tuple[int, ...], *, offset: int = 0, version: int = 3
    ) -> None:
        self.cuda, self.shape, self.version = cuda, shape, version
        self.base = cuda.cudaMalloc(int(np.prod(shape)) + offset)[1]
        self.pointer = self.base + offset
        self.stream: Any = None

    def content(self) -> NDArray[np.uint8]:
        return self.cuda.view(self.pointer, int(np.prod(self.shape))).reshape(self.shape)

    def fill(self, image: NDArray[np.uint8]) -> None:
        if self.stream is None:
            self.content()[...] = image
        else:
            area = [(self.pointer, self.pointer + int(np.prod(self.shape)))]
            work = Work("producer", [lambda: np.copyto(self.content(), image)], [], area)
            self.cuda.add(self.stream, work)

    def free(self) -> None:
        self.cuda.cudaFree(self.base)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self.pointer, False),
            "version": self.version,
        }
        if self.version >= 3:
            interface["stream"] = None if self.stream is None else int(self.stream)
        return interface


def read_labels(cuda: FakeCuda, labels: Any) -> NDArray[np.uint8]:
    """As a consumer does: wait for the stream that the interface names, then look."""
    interface = labels.__cuda_array_interface__
    assert interface["typestr"] == "|u1"
    cuda.drain(interface["stream"])
    return cuda.view(interface["data"][0], labels.nbytes).reshape(interface["shape"]).copy()


@pytest.mark.parametrize("ordered", [False, True], ids=["ready", "on a stream"])
@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 3), (1, HEIGHT, WIDTH, 3)], ids=str)
def test_frames_on_the_device_give_the_labels_of_the_cpu(
    machine: Machine, shape: tuple[int, ...], ordered: bool
) -> None:
    cuda = machine.cuda
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        pool = [Buffer(cuda, shape) for _ in range(3)]
        stream = cuda.cudaStreamCreateWithFlags(1)[1] if ordered else None
        copies = cuda.calls["cudaMemcpyAsync"]
        for step, image in enumerate(frames(40)):
            frame = pool[step % 3]
            frame.stream = stream
            frame.fill(image)
            result = gpu.step_device(frame)
            assert result.step == step
            assert np.array_equal(read_labels(cuda, result.labels), cpu.step(image).labels)
        assert cuda.calls["cudaMemcpyAsync"] == copies, "nothing was copied"
        assert cuda.calls["cudaGraphLaunch"] > 0, "addresses that recur are captured"
        for frame in pool:
            frame.free()
    if stream is not None:
        cuda.cudaStreamDestroy(stream)


def test_a_producer_waits_before_it_overwrites_a_frame(machine: Machine) -> None:
    """Two frames through one buffer, nobody on the host waiting in between."""
    cuda = machine.cuda
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        # Labels of the first steps do not depend on the frame.
        assert same(run(gpu, frames(6)), run(cpu, frames(6)))
        frame = Buffer(cuda, (HEIGHT, WIDTH, 3))
        frame.stream = cuda.cudaStreamCreateWithFlags(1)[1]
        results = []
        images = frames(2, seed=7)
        for image in images:
            frame.fill(image)
            results.append(gpu.step_device(frame))
        # The producer runs first, as far as it may.
        cuda.drain(frame.stream)
        for image, result in zip(images, results, strict=True):
            assert np.array_equal(read_labels(cuda, result.labels), cpu.step(image).labels)
        cuda.cudaStreamDestroy(frame.stream)
        frame.free()


def test_frames_on_host_and_device_mix(machine: Machine) -> None:
    cuda = machine.cuda
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        frame = Buffer(cuda, (HEIGHT, WIDTH, 3))
        for step, image in enumerate(frames(30)):
            wanted = cpu.step(image).labels
            if step % 3:
                assert np.array_equal(gpu.step(image).labels, wanted)
            else:
                frame.fill(image)
                labels = read_labels(cuda, gpu.step_device(frame).labels)
                assert np.array_equal(labels, wanted)
        frame.free()


def test_graphs_of_addresses_that_change_are_bounded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamseg.runtime.backends import tensorrt_lane

    monkeypatch.setattr(tensorrt_lane, "MAX_GRAPHS", 6)
    cuda = machine.cuda
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        pool = [Buffer(cuda, (HEIGHT, WIDTH, 3)) for _ in range(5)]
        for step, image in enumerate(frames(130)):
            frame = pool[step % 5]
            frame.fill(image)
            labels = read_labels(cuda, gpu.step_device(frame).labels)
            assert np.array_equal(labels, cpu.step(image).labels)
            assert len(cuda.executables) <= 6
        for frame in pool:
            frame.free()


@pytest.mark.parametrize(
    ("shape", "offset", "message"),
    [
        (
            (HEIGHT, WIDTH + 1, 3),
            0,
            r"expected uint8 \[6, 8, 3\], the model's size; resize it there",
        ),
        ((2, HEIGHT, WIDTH, 3), 0, "resize it there first"),
        ((HEIGHT, WIDTH, 3), 8, "TensorRT takes multiples of 256 bytes"),
    ],
)
def test_unusable_frames_are_refused(
    machine: Machine, shape: tuple[int, ...], offset: int, message: str
) -> None:
    frame = Buffer(machine.cuda, shape, offset=offset)
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        with pytest.raises(FrameMismatch, match=message):
            stream.step_device(frame)
        assert stream.steps == 0
    frame.free()


def test_frames_on_another_device_and_in_host_memory_are_refused(
    make_machine: MakeMachine,
) -> None:
    machine = make_machine(devices=2)
    machine.build()
    cuda = machine.cuda
    cuda.cudaSetDevice(1)
    elsewhere = Buffer(cuda, (HEIGHT, WIDTH, 3))
    cuda.cudaSetDevice(0)
    host = Buffer(cuda, (HEIGHT, WIDTH, 3))
    memory = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    host.pointer = memory.ctypes.data
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        with pytest.raises(FrameMismatch, match="is on CUDA device 1, expected CUDA device 0"):
            stream.step_device(elsewhere)
        with pytest.raises(FrameMismatch, match="is in host memory"):
            stream.step_device(host)
        assert stream.steps == 0
    for frame in (elsewhere, host):
        frame.free()


def test_the_cpu_backend_takes_no_device_frames(machine: Machine) -> None:
    frame = Buffer(machine.cuda, (HEIGHT, WIDTH, 3))
    with streamseg.open(machine.bundle.path, backend="onnxruntime") as stream:
        with pytest.raises(BackendError, match="backend='tensorrt' or 'cuda'"):
            stream.step_device(frame)
        with pytest.raises(FrameMismatch, match="goes to step_device"):
            stream.step(frame)  # type: ignore[arg-type]
    frame.free()


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_steps_through_gives_what_step_gives(machine: Machine, backend: str) -> None:
    images = frames(25, seed=2)
    images[7:9] = [image.repeat(2, axis=0) for image in images[7:9]]
    path = machine.bundle.path
    with (
        streamseg.open(path, native=False, backend=backend) as stream,
        streamseg.open(path, native=False, backend="onnxruntime") as cpu,
    ):
        wanted = run(cpu, images)
        got = [
            (result.labels.copy(), result.logits.copy(), result.step)
            for result in stream.steps_through(iter(images))
            if result.logits is not None
        ]
        assert [step for *_, step in got] == list(range(25))
        for (labels, logits, _), (want_labels, want_logits) in zip(got, wanted, strict=True):
            assert np.array_equal(labels, want_labels)
            assert np.array_equal(logits, want_logits)


def test_steps_through_starts_a_frame_before_the_last_is_finished(machine: Machine) -> None:
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        given: list[int] = []

        def images() -> Any:
            for number, image in enumerate(frames(5)):
                given.append(number)
                yield image

        seen = [(result.step, len(given)) for result in stream.steps_through(images())]
        assert seen == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]


def test_leaving_steps_through_early_leaves_the_stream_usable(machine: Machine) -> None:
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        images = frames(8)
        results = gpu.steps_through(images)
        next(results)
        with pytest.raises(BackendError, match="a step is under way"):
            gpu.step(images[0])
        results.close()
        gpu.reset()
        for image in images:
            assert np.array_equal(gpu.step(image).labels, cpu.step(image).labels)


def install_pycuda(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> list[Any]:
    """As much of PyCUDA as the sample uses, over the same device memory."""
    made: list[Any] = []

    class GPUArray:
        def __init__(self, shape: Any, dtype: Any, gpudata: int | None = None) -> None:
            self.shape, self.dtype = tuple(shape), np.dtype(dtype)
            size = int(np.prod(self.shape)) * self.dtype.itemsize
            self.size, self.owned = size, gpudata is None
            self.ptr = cuda.cudaMalloc(size)[1] if gpudata is None else gpudata
            made.append(self)

        def set_async(self, array: NDArray[Any], stream: Stream) -> None:
            content = array.copy()

            def copy() -> None:
                cuda.view(self.ptr, self.size)[:] = content.reshape(-1)

            area = [(self.ptr, self.ptr + self.size)]
            cuda.add(stream.handle, Work("PyCUDA", [copy], [], area))

        def get(self) -> NDArray[Any]:
            return cuda.view(self.ptr, self.size).view(self.dtype).reshape(self.shape).copy()

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {
                "shape": self.shape,
                "typestr": self.dtype.str,
                "data": (self.ptr, False),
                "strides": None,
                "version": 2,
            }

    class Stream:
        def __init__(self) -> None:
            self.handle = int(cuda.cudaStreamCreateWithFlags(1)[1])

        def synchronize(self) -> None:
            cuda.drain(self.handle)

        def __del__(self) -> None:
            cuda.cudaStreamDestroy(self.handle)

    package, driver = types.ModuleType("pycuda"), types.ModuleType("pycuda.driver")
    gpuarray = types.ModuleType("pycuda.gpuarray")
    driver.Stream = Stream  # type: ignore[attr-defined]
    gpuarray.GPUArray = GPUArray  # type: ignore[attr-defined]
    gpuarray.empty = GPUArray  # type: ignore[attr-defined]
    package.driver, package.gpuarray = driver, gpuarray  # type: ignore[attr-defined]
    package.autoprimaryctx = types.ModuleType("pycuda.autoprimaryctx")  # type: ignore[attr-defined]
    for module in (package, driver, gpuarray, package.autoprimaryctx):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def test_pycuda_sample_prints_the_shares_of_the_classes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = install_pycuda(monkeypatch, machine.cuda)
    source = "synthetic:street?size=48x64"
    arguments = [str(SAMPLE), str(machine.bundle.path), "--source", source, "--frames", "7"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(SAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    pixels = np.zeros(3)
    with (
        streamseg.open_source(source) as opened,
        streamseg.open(machine.bundle.path, backend="onnxruntime", native=False) as cpu,
    ):
        for _, frame in zip(range(7), opened, strict=False):
            image = cv2.resize(frame.image, (WIDTH, HEIGHT))
            pixels += np.bincount(cpu.step(np.asarray(image)).labels.ravel(), minlength=3)
    wanted = [
        f"{entry.name}: {share:.1%}"
        for entry, share in zip(machine.bundle.manifest.classes, pixels / pixels.sum(), strict=True)
    ]
    assert printed.splitlines() == wanted
    for array in arrays:
        if array.owned:
            machine.cuda.cudaFree(array.ptr)

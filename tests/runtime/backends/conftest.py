"""A machine with a GPU and TensorRT, as far as the runtime can tell."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamseg.runtime.backends import onnxruntime_cuda
from streamseg.runtime.backends import tensorrt as backend
from streamseg.runtime.backends.engine_files import EngineRecord, engine_cache, write_engine
from streamseg.runtime.backends.gpu import Gpu
from streamseg.runtime.bundle.bundle import Bundle, digest, read_bundle
from streamseg.runtime.stream import Stream, open_stream
from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_onnxruntime import FakeOnnxRuntime
from tests.runtime.backends.fake_tensorrt import FakeTensorRt, fake_engine
from tests.runtime.toy import write_toy_bundle

ORIN = Gpu("Orin", "8.7", "12.6")


@dataclass
class Machine:
    """The parts of the machine, and a bundle whose engines were built on it."""

    cuda: FakeCuda
    trt: FakeTensorRt
    bundle: Bundle

    def record(self, graph: str, content: bytes) -> EngineRecord:
        rtx = self.trt.__name__ == "tensorrt_rtx"
        return EngineRecord(
            graph=graph,
            graph_sha256=digest(self.bundle.graphs[graph]),
            flavour=self.trt.__name__,
            version=self.trt.__version__,
            gpu="" if rtx else ORIN.name,
            capabilities=(ORIN.capability,),
            driver=ORIN.driver,
            precision="fp32",
            plugins_sha256="",
            engine_sha256=digest(content),
        )

    def build(self, folder: Path | None = None) -> list[Path]:
        """What ``streamseg build`` leaves: into the cache, or into ``folder``."""
        written = []
        for name, graph in self.bundle.graphs.items():
            content = fake_engine(graph, self.trt.__version__)
            record = self.record(name, content)
            path = (folder or engine_cache() / record.key) / f"{name}.engine"
            write_engine(path, content, record)
            written.append(path)
        return written


MakeMachine = Callable[..., Machine]


@dataclass
class CudaMachine:
    """A GPU, an ONNX Runtime with the CUDA provider, and a bundle."""

    cuda: FakeCuda
    runtime: FakeOnnxRuntime
    path: Path

    def open(self, **options: Any) -> Stream:
        return open_stream(self.path, backend="cuda", native=False, **options)

    def open_cpu(self) -> Stream:
        return open_stream(self.path, backend="onnxruntime", native=False)


MakeCudaMachine = Callable[..., CudaMachine]


@pytest.fixture
def make_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeCuda]]:
    """Install CUDA; in the end, nothing may be left on the device or have been out of order.

    A test of a fault takes ``violations`` away.
    """
    made: list[FakeCuda] = []

    def make(**options: Any) -> FakeCuda:
        cuda = FakeCuda(**options)
        made.append(cuda)
        monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", types.ModuleType("cuda.bindings"))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        return cuda

    yield make
    gc.collect()
    for cuda in made:
        assert cuda.violations == []
        if cuda.lost is None:
            assert cuda.held() == {}


@pytest.fixture
def make_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_cuda: Callable[..., FakeCuda]
) -> MakeMachine:
    """Install CUDA and TensorRT."""

    def make(
        flavour: str = "tensorrt",
        version: str = "10.3.0",
        bundle: Path | None = None,
        **options: Any,
    ) -> Machine:
        cuda = make_cuda(**options)
        trt = FakeTensorRt(flavour, version, cuda)
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, trt if name == flavour else None)
        monkeypatch.setattr(backend, "find_gpu", lambda: ORIN)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return Machine(cuda, trt, read_bundle(bundle or write_toy_bundle(tmp_path / "toy")))

    return make


@pytest.fixture
def make_cuda_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_cuda: Callable[..., FakeCuda]
) -> MakeCudaMachine:
    """Install CUDA and ONNX Runtime's CUDA provider."""

    def make(version: str = "1.31.1", bundle: Path | None = None, **options: Any) -> CudaMachine:
        cuda = make_cuda(**options)
        runtime = FakeOnnxRuntime(cuda, version)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        monkeypatch.setattr(onnxruntime_cuda, "find_gpu", lambda: Gpu("H200", "9.0", "13.0"))
        return CudaMachine(cuda, runtime, bundle or write_toy_bundle(tmp_path / "toy"))

    return make


@pytest.fixture
def machine(make_machine: MakeMachine) -> Machine:
    """TensorRT 10.3 on an Orin, engines of the toy bundle in the cache."""
    made = make_machine()
    made.build()
    return made

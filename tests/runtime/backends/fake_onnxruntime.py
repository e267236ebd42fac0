"""ONNX Runtime with a CUDA provider on ``FakeCuda``: graphs run in the real ONNX Runtime's CPU.

As ONNX Runtime does: host values, and inputs whose consumer is on the host, are copied when they
are *bound*, by a copy that waits for no stream of ours; CUDA graphs belong to the thread that
captured them, are replayed with the addresses of their capture, whatever is bound since, and a
first run with a graph's number runs the graph three times; graphs with control flow cannot be
captured.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_kernels import DeviceTensor, graph_work, tensor_kind

PROVIDER = "CUDAExecutionProvider"
RUNS_BEFORE_CAPTURE = 2
CONTROL_FLOW = {"If", "Loop", "Scan"}


class FakeOnnxRuntime(types.ModuleType):
    """The module; what is not about CUDA is the real one's.

    Attributes:
        host_inputs: names of inputs whose consumer is on the host.
        tells_placement: has ``get_input_memory_infos`` (ONNX Runtime 1.23).
        replay_waits: a replay waits for the device, as up to 1.31.
        failing: raised by the next run.
        capture_fails: the text of the error that a capture ends in.
    """

    def __init__(self, cuda: FakeCuda, version: str = "1.31.1") -> None:
        super().__init__("onnxruntime")
        self.cuda, self.__version__ = cuda, version
        self.host_inputs: set[str] = set()
        self.tells_placement, self.replay_waits = True, True
        self.failing: Exception | None = None
        self.capture_fails = ""
        self.provider_loads = True
        self.sessions: list[CudaSession] = []
        self.RunOptions = RunOptions

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        pass

    def InferenceSession(self, content: bytes, settings: Any, **options: Any) -> Any:  # noqa: N802
        first = options["providers"][0]
        if isinstance(first, str):
            return onnxruntime.InferenceSession(content, settings, **options)
        assert options["enable_fallback"] == 0, "a failing provider must not become the CPU"
        assert self.cuda.current == 0
        session = CudaSession(self, content, first[1])
        self.sessions.append(session)
        return session


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class MemoryInfo:
    def __init__(self, name: str) -> None:
        self.name = name


class CudaSession:
    def __init__(self, module: FakeOnnxRuntime, content: bytes, options: dict[str, str]) -> None:
        self.module, self.cuda, self.options = module, module.cuda, options
        # Since 1.26: "No registered plugin EP device found for ... with device_id=0".
        assert "device_id" not in options, "a warning for every session"
        self.stream = int(options["user_compute_stream"])
        self.captures = options.get("enable_cuda_graph") == "1"
        nodes = {node.op_type for node in onnx.load_from_string(content).graph.node}
        if self.captures and (nodes & CONTROL_FLOW or module.host_inputs):
            raise RuntimeError("This session cannot use the graph capture feature as requested")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = 1, 3
        # The CPU backend's own choice of fusions, so that results are equal bit by bit.
        self.inner = onnxruntime.InferenceSession(
            content,
            settings,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )
        self.graphs: dict[tuple[int, str], Callable[[], None]] = {}
        self.captured = self.replayed = self.ran = 0
        if module.tells_placement:
            self.get_input_memory_infos = self._memory_infos

    def get_inputs(self) -> Any:
        return self.inner.get_inputs()

    def get_outputs(self) -> Any:
        return self.inner.get_outputs()

    def get_providers(self) -> list[str]:
        return [PROVIDER] if self.module.provider_loads else ["CPUExecutionProvider"]

    def _memory_infos(self) -> list[MemoryInfo]:
        host = self.module.host_inputs
        return [MemoryInfo("Cpu" if e.name in host else "Cuda") for e in self.get_inputs()]

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: RunOptions) -> None:
        if self.module.failing is not None:
            raise self.module.failing
        number = options.entries.get("gpu_graph_id", "0")
        waits = options.entries.get("disable_synchronize_execution_providers") != "1"
        key = (threading.get_ident(), number)
        if not self.captures or number == "-1":
            self._enqueue(dict(binding.inputs), dict(binding.outputs))
        elif key in self.graphs:
            self.replayed += 1
            self.graphs[key]()
            waits = waits or self.module.replay_waits
        else:
            inputs, outputs = dict(binding.inputs), dict(binding.outputs)
            for _ in range(RUNS_BEFORE_CAPTURE + 1):
                self._enqueue(inputs, outputs)
            if self.module.capture_fails:
                raise RuntimeError(self.module.capture_fails)
            self.captured += 1
            self.graphs[key] = lambda: self._enqueue(inputs, outputs)
        if waits:
            self.cuda.drain(self.stream)

    def _enqueue(self, inputs: dict[str, DeviceTensor], outputs: dict[str, DeviceTensor]) -> None:
        self.ran += 1
        missing = {entry.name for entry in self.get_inputs()} - set(inputs)
        assert not missing, f"unbound inputs: {missing}"
        with self.cuda.lock:
            self.cuda.add(self.stream, graph_work(self.cuda, self.inner, inputs, outputs))
            self.cuda.idle()


class Binding:
    """What is bound: addresses on the device; host values are copied there now."""

    def __init__(self, session: CudaSession) -> None:
        self.session, self.cuda = session, session.cuda
        self.inputs: dict[str, DeviceTensor] = {}
        self.outputs: dict[str, DeviceTensor] = {}
        self._kept: dict[str, Any] = {}

    def bind_input(
        self, name: str, device: str, index: int, kind: Any, shape: list[int], address: int
    ) -> None:
        assert (device, index) == ("cuda", 0)
        tensor = DeviceTensor(address, tuple(shape), np.dtype(kind))
        self._check(name, tensor, self.session.get_inputs())
        if name in self.session.module.host_inputs:
            with self.cuda.lock:
                self.cuda.idle()
                self.cuda.read_on_host(tensor.area)
                self._copy(name, tensor.view(self.cuda).copy())
        else:
            self.inputs[name] = tensor

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        """A value in host memory."""
        self._copy(name, np.array(value.numpy()))

    def _copy(self, name: str, content: npt.NDArray[Any]) -> None:
        memory = np.ascontiguousarray(content)
        with self.cuda.lock:
            address = memory.ctypes.data
            self.cuda.hidden[address] = memory.view(np.uint8).reshape(-1)
        self._kept[name] = memory
        self.inputs[name] = DeviceTensor(address, memory.shape, memory.dtype)

    def bind_output(
        self, name: str, device: str, index: int, kind: Any, shape: list[int], address: int
    ) -> None:
        assert (device, index) == ("cuda", 0)
        tensor = DeviceTensor(address, tuple(shape), np.dtype(kind))
        self._check(name, tensor, self.session.get_outputs())
        self.outputs[name] = tensor

    def _check(self, name: str, tensor: DeviceTensor, entries: Any) -> None:
        (entry,) = [entry for entry in entries if entry.name == name]
        assert (tensor.shape, tensor.dtype) == tensor_kind(entry), name

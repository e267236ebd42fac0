"""ONNX Runtime on a CUDA device: state in device memory, bound once for every buffer phase."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamseg.errors import BackendError, PluginNotFound
from streamseg.plugins.loader import find_ort_cuda_library
from streamseg.runtime.backends.cuda import DeviceArray, open_cuda
from streamseg.runtime.backends.gpu import find_gpu
from streamseg.runtime.backends.interface import (
    Array,
    BackendOptions,
    Executable,
    Lane,
    StepPlan,
    is_finite,
)
from streamseg.runtime.backends.onnxruntime import (
    first_line,
    import_onnxruntime,
    lowering_reason,
    open_session,
)
from streamseg.runtime.backends.tensors import output_tensors
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

# Tests put the CPU here: the same calls then run without a GPU.
DEVICE = "cuda"
PROVIDER = "CUDAExecutionProvider"
INSTALL = (
    "pip install 'streamseg[cuda]' in an environment without the package onnxruntime, which it "
    "replaces; for JetPack 6 PyPI has none, see docs/jetson.md"
)


def load_onnxruntime_cuda(bundle: Bundle, options: BackendOptions) -> Executable:
    """Load every graph of ``bundle`` into an ONNX Runtime session on the first CUDA device.

    Raises:
        BackendError: ONNX Runtime, its CUDA provider or the GPU is missing, or a graph is refused.
        PluginNotFound: ``native=True`` and there is no usable library.
        BundleError: the graphs' names, shapes or types disagree with the manifest.
    """
    runtime = import_onnxruntime()
    if PROVIDER not in runtime.get_available_providers():
        raise BackendError(
            f"ONNX Runtime {runtime.__version__} has no CUDA provider. Run: {INSTALL}"
        )
    gpu = find_gpu()
    if gpu is None:
        raise BackendError(
            "backend 'cuda' needs an NVIDIA GPU, and no driver tells of one here. "
            "Run: streamseg doctor, or use --backend onnxruntime"
        )
    if hasattr(runtime, "preload_dlls"):  # CUDA and cuDNN from NVIDIA's wheels
        runtime.preload_dlls()
    native = _find_native(options)
    sessions = {}
    for name, content in bundle.graphs.items():
        settings = runtime.SessionOptions()
        settings.log_severity_level = 3
        if native is not None:
            settings.register_custom_ops_library(native)
        session = open_session(name, bundle, functools.partial(_open, runtime, content, settings))
        if PROVIDER not in session.get_providers():
            raise BackendError(
                f"ONNX Runtime {runtime.__version__} cannot load its CUDA provider: CUDA or cuDNN "
                "of the version that it was built for is missing. Run: streamseg doctor"
            )
        sessions[name] = session
    kernels = "native kernels" if native else lowering_reason(options)
    description = f"onnxruntime {runtime.__version__} CUDA on {gpu.label}, {kernels}"
    logger.info("running on %s", description)
    return OnnxRuntimeCudaExecutable(runtime, sessions, bundle.manifest, description)


def _open(runtime: Any, content: bytes, settings: Any) -> Any:
    return runtime.InferenceSession(content, settings, providers=_providers(runtime))


def _providers(runtime: Any) -> list[Any]:
    """Float32 stays float32: without the option ONNX Runtime rounds products to TF32."""
    known = tuple(int(part) for part in runtime.__version__.split(".")[:2])
    options = {"use_tf32": "0"} if known >= (1, 18) and DEVICE == "cuda" else {}
    return (
        [(PROVIDER, options)] if DEVICE == "cpu" else [(PROVIDER, options), "CPUExecutionProvider"]
    )


def _find_native(options: BackendOptions) -> str | None:
    if options.native is False:
        return None
    try:
        return str(find_ort_cuda_library(options.library))
    except PluginNotFound as error:
        if options.native or options.library is not None:
            raise
        logger.warning("running the lowering, many times slower: %s", error)
        return None


class OnnxRuntimeCudaExecutable(Executable):
    """Sessions of one bundle; see ``load_onnxruntime_cuda``."""

    def __init__(
        self, runtime: Any, sessions: dict[str, Any], manifest: Manifest, description: str
    ) -> None:
        self.runtime, self.sessions = runtime, sessions
        self.manifest, self.description = manifest, description

    def new_lane(self) -> OnnxRuntimeCudaLane:
        """Make the buffers of one stream, state zeroed."""
        return OnnxRuntimeCudaLane(self)

    def close(self) -> None:
        """Drop the sessions."""
        self.sessions = {}


class OnnxRuntimeCudaLane(Lane):
    """State in OrtValues on the device; frame and labels pass through host buffers made once.

    A binding is made the first time a plan occurs. Frames and labels on the device have bindings of
    their own. A step is complete when ``start`` returns.
    """

    depth = 1
    stream = 0

    def __init__(self, executable: OnnxRuntimeCudaExecutable) -> None:
        manifest = executable.manifest
        self._executable = executable
        self._under_way = False
        self._bindings: dict[StepPlan, Any] = {}
        self._device_bindings: dict[StepPlan, Any] = {}
        self._device_outputs: dict[str, Any] = {}
        self._state = {
            spec.name: [self._new_value(spec.shape, spec.dtype) for _ in range(spec.buffers)]
            for spec in manifest.state
        }
        self.clear()
        self._batch = np.zeros(manifest.frame.shape, dtype=np.uint8)
        self._outputs: dict[str, Array] = {
            name: np.zeros(shape, dtype=dtype)
            for name, (shape, dtype) in output_tensors(manifest).items()
        }
        self.frame = self._batch[0]
        self.labels = self._outputs["labels"][0]
        logits = self._outputs.get("logits")
        self.logits = None if logits is None else logits[0]

    def _new_value(self, shape: tuple[int, ...], dtype: str) -> Any:
        make = self._executable.runtime.OrtValue.ortvalue_from_shape_and_type
        try:
            return make(list(shape), np.dtype(dtype).type, DEVICE, 0)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise BackendError(
                f"no device memory for {dtype} {list(shape)}: {first_line(error)}"
            ) from error

    def start(self, plan: StepPlan) -> None:
        """Upload ``frame``, run one step, download labels and logits."""
        if self._under_way:
            raise BackendError("a step is under way; finish it before the next")
        binding = self._bindings.get(plan)
        if binding is None:
            binding = self._bind_state(plan)
            wrap = self._executable.runtime.OrtValue.ortvalue_from_numpy
            binding.bind_ortvalue_input("frame", wrap(self._batch))
            for tensor in self._executable.manifest.graphs[plan.graph].outputs:
                binding.bind_ortvalue_output(tensor, wrap(self._outputs[tensor]))
            self._bindings[plan] = binding
        self._run(plan, binding)
        self._under_way = True

    def finish(self) -> None:
        """Take note that the result was fetched."""
        if not self._under_way:
            raise BackendError("no step is under way")
        self._under_way = False

    def run_device(self, plan: StepPlan, frame: DeviceArray) -> DeviceArray:
        """Run one step on a frame in device memory; labels stay there, ready on return."""
        binding = self._device_bindings.get(plan)
        if binding is None:
            binding = self._bind_state(plan)
            for tensor, (shape, dtype) in output_tensors(self._executable.manifest).items():
                if tensor in self._executable.manifest.graphs[plan.graph].outputs:
                    if tensor not in self._device_outputs:
                        self._device_outputs[tensor] = self._new_value(shape, dtype)
                    binding.bind_ortvalue_output(tensor, self._device_outputs[tensor])
            self._device_bindings[plan] = binding
        if frame.stream:
            cuda = open_cuda()
            cuda.synchronize(cuda.handle(frame.stream))
        binding.bind_input("frame", DEVICE, 0, np.uint8, list(frame.shape), frame.pointer)
        self._run(plan, binding)
        labels = self._device_outputs["labels"]
        return DeviceArray(int(labels.data_ptr()), tuple(labels.shape())[1:], "uint8")

    def _session(self, plan: StepPlan) -> Any:
        session = self._executable.sessions.get(plan.graph)
        if session is None:
            raise BackendError("the stream is closed")
        return session

    def _bind_state(self, plan: StepPlan) -> Any:
        binding = self._session(plan).io_binding()
        for feed in plan.reads:
            binding.bind_ortvalue_input(feed.tensor, self._state[feed.state][feed.buffer])
        for feed in plan.writes:
            binding.bind_ortvalue_output(feed.tensor, self._state[feed.state][feed.buffer])
        return binding

    def _run(self, plan: StepPlan, binding: Any) -> None:
        session = self._session(plan)
        try:
            binding.synchronize_inputs()
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise BackendError(f"graph '{plan.graph}' failed: {first_line(error)}") from error

    def read(self, state: str, buffer: int) -> Array:
        """A copy of one state buffer."""
        content: Array = np.array(self._state[state][buffer].numpy())
        return content

    def write(self, state: str, buffer: int, content: Array) -> None:
        """Overwrite one state buffer."""
        self._state[state][buffer].update_inplace(np.ascontiguousarray(content))

    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:
        """Copy each buffer to the host and look there."""
        return all(is_finite(self.read(state, buffer)) for state, buffer in buffers)

    def clear(self) -> None:
        """Zero every state buffer."""
        for spec in self._executable.manifest.state:
            zeros = np.zeros(spec.shape, dtype=spec.dtype)
            for value in self._state[spec.name]:
                value.update_inplace(zeros)

    def close(self) -> None:
        """Let go of the bindings and with them of the device memory."""
        self._bindings.clear()
        self._device_bindings.clear()

"""ONNX Runtime on a CUDA device: sessions that run on a stream of ours, from CUDA graphs."""

from __future__ import annotations

import functools
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamseg.errors import BackendError, PluginNotFound
from streamseg.installation import install_command
from streamseg.plugins.loader import find_ort_cuda_library
from streamseg.runtime.backends.cuda import Cuda, open_cuda
from streamseg.runtime.backends.gpu import find_gpu
from streamseg.runtime.backends.interface import BackendOptions, Executable
from streamseg.runtime.backends.onnxruntime import (
    import_onnxruntime,
    lowering_reason,
    open_session,
)
from streamseg.runtime.backends.onnxruntime_cuda_lane import (
    CapturedBuffers,
    CudaSession,
    OnnxRuntimeCudaLane,
)
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
TF32_SINCE = (1, 18)  # ONNX Runtime that can switch TF32 off
GRAPHS_SINCE = (1, 18)  # ONNX Runtime that keeps several CUDA graphs in a session


def load_onnxruntime_cuda(bundle: Bundle, options: BackendOptions) -> Executable:
    """Load every graph of ``bundle`` into an ONNX Runtime session on the first CUDA device.

    Raises:
        BackendError: ONNX Runtime, its CUDA provider, cuda-python or the GPU is missing, the GPU
            has too little memory, or a graph is refused.
        PluginNotFound: ``native=True`` and there is no usable library.
        BundleError: the graphs' names, shapes or types disagree with the manifest.
    """
    runtime = import_onnxruntime()
    if PROVIDER not in runtime.get_available_providers():
        raise BackendError(
            f"ONNX Runtime {runtime.__version__} has no CUDA provider. "
            f"Run: {install_command('cuda')} in an environment without the package onnxruntime, "
            "which it replaces; for JetPack 6 PyPI has none, see docs/jetson.md"
        )
    gpu = find_gpu()
    if gpu is None:
        raise BackendError(
            "backend 'cuda' needs an NVIDIA GPU, and none was found. "
            "Run: streamseg doctor, or use --backend onnxruntime"
        )
    if hasattr(runtime, "preload_dlls"):  # CUDA and cuDNN from NVIDIA's wheels
        runtime.preload_dlls()
    native = _find_native(options)
    kernels = "native kernels" if native else lowering_reason(options)
    description = f"onnxruntime {runtime.__version__} CUDA on {gpu.label}, {kernels}"
    make = functools.partial(
        OnnxRuntimeCudaExecutable, runtime, open_cuda(), bundle, native, description
    )
    executable = _prepared(make)
    logger.info("running on %s", executable.description)
    return executable


def _prepared(make: Any) -> OnnxRuntimeCudaExecutable:
    """An executable that has run every step once; without CUDA graphs where capturing fails."""
    for capture in (True, False):
        executable: OnnxRuntimeCudaExecutable = make(capture=capture)
        try:
            executable.prepare()
        except BackendError as error:
            captures = executable.captures
            executable.close()
            if not captures:
                raise
            logger.warning("running without CUDA graphs: %s", error)
        except BaseException:
            executable.close()
            raise
        else:
            return executable
    raise AssertionError("unreachable: without CUDA graphs an executable is ready or it raises")


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
    """Sessions of one bundle, all on one stream of ours; see ``load_onnxruntime_cuda``.

    ONNX Runtime keeps CUDA graphs for the thread that captured them, and may wait for the device
    when it replays one, so that every step runs in one thread of the executable.
    """

    def __init__(
        self,
        runtime: Any,
        cuda: Cuda,
        bundle: Bundle,
        native: str | None,
        description: str,
        *,
        capture: bool,
    ) -> None:
        self.runtime, self.cuda, self.description = runtime, cuda, description
        self.manifest: Manifest = bundle.manifest
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="streamseg-cuda")
        self.graph_ids = itertools.count(1)
        self.sessions: dict[str, CudaSession] = {}
        self._native = native
        self._buffers: list[CapturedBuffers] = []
        self._spare: list[CapturedBuffers] = []
        with cuda.device():
            self.steps = cuda.new_stream()
            try:
                for name in bundle.graphs:
                    self.sessions[name] = self._open(name, bundle, capture)
            except BaseException:
                self.close()
                raise

    @property
    def captures(self) -> bool:
        """Whether some graph runs from CUDA graphs."""
        return any(entry.captures for entry in self.sessions.values())

    @property
    def _version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.runtime.__version__.split(".")[:2])

    def _open(self, name: str, bundle: Bundle, capture: bool) -> CudaSession:
        if capture and self._version >= GRAPHS_SINCE:
            try:
                return self._open_once(name, bundle, capture=True)
            except BackendError as error:  # control flow, or nodes on the host
                logger.info("graph '%s' runs without a CUDA graph: %s", name, error)
        return self._open_once(name, bundle, capture=False)

    def _open_once(self, name: str, bundle: Bundle, *, capture: bool) -> CudaSession:
        settings = self.runtime.SessionOptions()
        # Errors are raised; a capture that fails is tried again without, and not worth red lines.
        settings.log_severity_level = 4 if capture else 3
        if self._native is not None:
            settings.register_custom_ops_library(self._native)
        content, providers = bundle.graphs[name], self._providers(capture)

        def open_it() -> Any:
            # By default a provider that fails is replaced by the CPU, with a line on stdout.
            return self.runtime.InferenceSession(
                content, settings, providers=providers, enable_fallback=0
            )

        session = open_session(name, bundle, open_it)
        if PROVIDER not in session.get_providers():
            raise BackendError(
                f"ONNX Runtime {self.runtime.__version__} cannot load its CUDA provider: CUDA or "
                "cuDNN of the version that it was built for is missing. Run: streamseg doctor"
            )
        return CudaSession(session, capture, _host_inputs(session))

    def _providers(self, capture: bool) -> list[Any]:
        """Float32 stays float32: without the option ONNX Runtime rounds products to TF32.

        The device is the first, ONNX Runtime's default; with ``device_id`` every session of 1.26
        and later warns that it finds no plugin for that device.
        """
        options = {"user_compute_stream": str(int(self.steps))}
        if self._version >= TF32_SINCE and self._multiplies_float32:
            options["use_tf32"] = "0"
        if capture:
            options["enable_cuda_graph"] = "1"
        return [(PROVIDER, options), "CPUExecutionProvider"]

    @property
    def _multiplies_float32(self) -> bool:
        """Whether TF32 could change a result; the scan's lowering has a product in float32.

        Elsewhere the option must not be set: with ``use_tf32=0`` ONNX Runtime takes tensor cores
        from convolutions of every type. For some in float16 cuDNN then has no kernel, which prints
        a red error before they get them back; others stay without (ONNX Runtime's conv.cc).
        """
        return self.manifest.precision_name != "fp16" or self._native is None

    def prepare(self) -> None:
        """Make the first lane's buffers, so that what cannot run or be captured shows now."""
        self._spare.append(self._new_buffers())

    def _new_buffers(self) -> CapturedBuffers:
        with self.cuda.device():
            buffers = CapturedBuffers(self)
        self._buffers.append(buffers)
        self.worker.submit(buffers.prepare).result()
        return buffers

    def new_lane(self) -> OnnxRuntimeCudaLane:
        """A lane on the buffers of one that was closed, else on new ones; its state is zeroed."""
        if not self.sessions:
            raise BackendError("the stream is closed")
        buffers = self._spare.pop() if self._spare else self._new_buffers()
        return OnnxRuntimeCudaLane(self, buffers)

    def take_back(self, buffers: CapturedBuffers) -> None:
        """Keep a closed lane's buffers: ONNX Runtime cannot release the graphs captured on them."""
        if buffers in self._buffers:
            self._spare.append(buffers)

    def close(self) -> None:
        """Release sessions, buffers and the stream, after the steps begun so far."""
        self.worker.shutdown()
        for buffers in self._buffers:
            buffers.settle_quietly()
            buffers.bindings.clear()
        self.sessions = {}
        self._spare.clear()
        while self._buffers:
            self._buffers.pop().close()
        if self.steps is not None:
            self.cuda.try_call("cudaStreamDestroy", self.steps)
            self.steps = None


def _host_inputs(session: Any) -> frozenset[str]:
    """Inputs that ONNX Runtime wants in host memory; all of them where it is unknown."""
    names = [entry.name for entry in session.get_inputs()]
    if not hasattr(session, "get_input_memory_infos"):  # before ONNX Runtime 1.23
        return frozenset(names)
    infos = session.get_input_memory_infos()
    return frozenset(
        name for name, info in zip(names, infos, strict=True) if not info.name.startswith("Cuda")
    )

"""TensorRT: engines from checked files, one execution context for every lane and graph."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamseg.errors import BackendError, EngineMismatch
from streamseg.files import whole_file
from streamseg.plugins.loader import find_plugins
from streamseg.runtime.backends.cuda import Cuda, DeviceArray, open_cuda
from streamseg.runtime.backends.engine_files import (
    EngineRecord,
    Machine,
    find_engines,
    read_engine,
    read_record,
)
from streamseg.runtime.backends.gpu import Gpu, find_gpu
from streamseg.runtime.backends.interface import BackendOptions, Executable
from streamseg.runtime.backends.tensorrt_lane import TensorRtLane
from streamseg.runtime.backends.tensorrt_library import (
    hash_library,
    import_tensorrt,
    load_plugins,
    make_log,
)
from streamseg.runtime.backends.tensors import graph_inputs, graph_outputs
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

# TensorRT's name of a type, and NumPy's.
TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
}


def load_tensorrt(
    bundle: Bundle, options: BackendOptions, flavour: str | None = None
) -> Executable:
    """Open the engines of every graph of ``bundle``.

    Args:
        bundle: from ``read_bundle``.
        options: ``engine`` says where the engines are.
        flavour: ``tensorrt``, ``tensorrt_rtx``, or ``None`` for the one that is installed.
    Raises:
        BackendError: TensorRT, cuda-python or the GPU is missing, or an engine is refused.
        EngineMismatch: an engine is missing, damaged, or was built for something else.
        BundleError: an engine's tensors disagree with the manifest.
    """
    flavour, trt = import_tensorrt(flavour)
    gpu = find_gpu()
    if gpu is None:
        raise BackendError(
            f"{flavour} needs an NVIDIA GPU, and none was found. "
            "Run: streamseg doctor, or use --backend onnxruntime"
        )
    library, reason = find_plugins(options.native, options.library)
    if library is None and options.native is None:
        logger.info("opening engines of the lowering only: %s", reason)
    machine = Machine(
        flavour, str(trt.__version__), gpu, "" if library is None else hash_library(library)
    )
    if options.engine is not None and options.engine.is_file() and len(bundle.graphs) > 1:
        raise BackendError(
            f"{bundle.path} has the graphs {', '.join(bundle.graphs)}, and {options.engine} is one "
            "engine; give the folder of all of them"
        )
    places = find_engines(
        bundle.graphs, machine=machine, place=options.engine, bundle=str(bundle.path)
    )
    files = {
        name: _read(places[name], content, bundle, machine, options)
        for name, content in bundle.graphs.items()
    }
    if options.warn_unverified:
        _warn_unverified(next(iter(files.values())), bundle)
    if library is not None and any(entry.record.plugins_sha256 for entry in files.values()):
        load_plugins(trt, flavour, library)
    cuda = open_cuda()
    return TensorRtExecutable(trt, cuda, files, machine, bundle.manifest)


@dataclass(frozen=True)
class EngineFile:
    """A checked engine: where it lies, its record, its bytes."""

    path: Path
    record: EngineRecord
    content: bytes


def _warn_unverified(file: EngineFile, bundle: Bundle) -> None:
    """Warn unless the engines agreed with ONNX Runtime when they were built."""
    found = file.record.verification
    if found is None:
        logger.warning(
            "%s was never compared with ONNX Runtime, so nothing says that its results are right. "
            "Run: streamseg build %s",
            *(file.path, bundle.path),
        )
    elif not found.passed:
        logger.warning(
            "%s failed its check, and its results are wrong: %s", file.path, found.describe()
        )
    elif not found.conclusive:
        logger.warning("the check of %s was not conclusive: %s", file.path, found.describe())


def _read(
    path: Path, content: bytes, bundle: Bundle, machine: Machine, options: BackendOptions
) -> EngineFile:
    named = str(bundle.path)
    data = read_engine(path, graph=content, machine=machine, bundle=named)
    record = read_record(path)
    if options.native and not record.plugins_sha256:
        raise EngineMismatch(
            f"{path} was built from the lowering, and --native asks for our plugins. "
            f"Run: streamseg build {named} --native"
        )
    return EngineFile(path, record, data)


class TensorRtExecutable(Executable):
    """Engines of one bundle; see ``load_tensorrt``."""

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        files: Mapping[str, EngineFile],
        machine: Machine,
        manifest: Manifest,
    ) -> None:
        self.trt, self.cuda, self.manifest = trt, cuda, manifest
        self.log = make_log(trt)
        self._runtime = trt.Runtime(self.log)
        # The default, said here because it matters: an engine may carry no host code.
        self._runtime.engine_host_code_allowed = False
        self._engines: dict[str, Any] = {}
        self._caches: dict[Path, Any] = {}
        self._configs: dict[str, Any] = {}
        self._lanes: set[TensorRtLane] = set()
        for name, file in files.items():
            self._engines[name] = self._open(name, file)
            if machine.flavour == "tensorrt_rtx":
                assert machine.gpu is not None
                self._configs[name] = self._configure(
                    name, runtime_cache_of(file.path, machine.gpu)
                )
        self.description = _describe(machine, [file.record for file in files.values()])
        logger.info("running on %s", self.description)

    def _open(self, name: str, file: EngineFile) -> Any:
        engine = self._runtime.deserialize_cuda_engine(file.content)
        if engine is None:
            raise BackendError(f"TensorRT does not open engine {file.path}: {self.log.reason}")
        check_engine(self.trt, engine, name, self.manifest, file.path)
        return engine

    def _configure(self, name: str, path: Path) -> Any:
        """A TensorRT-RTX configuration that keeps what is compiled for this GPU in ``path``."""
        config = self._engines[name].create_runtime_config()
        cache = config.create_runtime_cache()
        if path.is_file() and not cache.deserialize(path.read_bytes()):
            logger.warning("%s is not of this TensorRT-RTX and GPU; compiling again", path)
        config.set_runtime_cache(cache)
        config.set_execution_context_allocation_strategy(self._user_managed)
        self._caches[path] = cache
        return config

    @property
    def _user_managed(self) -> Any:
        return self.trt.ExecutionContextAllocationStrategy.USER_MANAGED

    def context_size(self, graph: str) -> int:
        """Bytes of device memory that a context of a graph works in."""
        engine = self._engine(graph)
        # TensorRT 10.0 has the first name only, TensorRT 11 the second only.
        size = getattr(engine, "device_memory_size_v2", None)
        return int(engine.device_memory_size if size is None else size)

    def _engine(self, graph: str) -> Any:
        engine = self._engines.get(graph)
        if engine is None:
            raise BackendError("the stream is closed")
        return engine

    def new_context(self, graph: str, memory: DeviceArray) -> Any:
        """An execution context of a graph that works in this memory."""
        config = self._configs.get(graph)
        how = self._user_managed if config is None else config
        context = self._engine(graph).create_execution_context(how)
        if context is not None:
            if hasattr(context, "set_device_memory"):
                context.set_device_memory(memory.pointer, memory.nbytes)
            else:  # TensorRT 10.0
                context.device_memory = memory.pointer
        if context is None:
            free, total = self.cuda.call("cudaMemGetInfo")
            raise BackendError(
                f"TensorRT makes no execution context for graph '{graph}': {self.log.reason} "
                f"({free >> 20} of {total >> 20} MiB of GPU memory are free)"
            )
        return context

    def new_lane(self) -> TensorRtLane:
        """Make the buffers of one stream on the device."""
        lane = TensorRtLane(self, self.manifest, on_close=self._lanes.discard)
        self._lanes.add(lane)
        self._save_caches()
        return lane

    def _save_caches(self) -> None:
        """Keep what TensorRT-RTX compiled while a lane was made."""
        for path, cache in self._caches.items():
            content = bytes(cache.serialize())
            try:
                if path.is_file() and path.read_bytes() == content:
                    continue
                with whole_file(path, BackendError) as draft:
                    draft.write_bytes(content)
            except (OSError, BackendError) as error:
                logger.warning("what TensorRT-RTX compiled is not kept: %s", error)

    def close(self) -> None:
        """Release lanes, then engines."""
        for lane in list(self._lanes):
            lane.close()
        self._configs.clear()
        self._caches.clear()
        self._engines.clear()
        self._runtime = None


def runtime_cache_of(engine: Path, gpu: Gpu) -> Path:
    """Where what TensorRT-RTX compiles for this GPU lies: beside its engine."""
    name = hashlib.sha256(gpu.name.encode()).hexdigest()[:8]
    return engine.with_suffix(f".{gpu.capability}-{name}.rtxcache")


def _describe(machine: Machine, records: list[EngineRecord]) -> str:
    assert machine.gpu is not None
    precision = ", ".join(sorted({record.precision for record in records}))
    kernels = "plugins" if all(record.plugins_sha256 for record in records) else "lowering"
    return f"{machine.flavour} {machine.version} on {machine.gpu.label}, {precision}, {kernels}"


def check_engine(trt: Any, engine: Any, name: str, manifest: Manifest, path: Path) -> None:
    """Raise EngineMismatch unless an engine's names, shapes and types are the manifest's."""
    graph = manifest.graphs[name]
    found: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {"input": {}, "output": {}}
    for i in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(i)
        side = "input" if engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT else "output"
        kind = engine.get_tensor_dtype(tensor).name
        shape = tuple(int(extent) for extent in engine.get_tensor_shape(tensor))
        found[side][tensor] = (shape, TYPES.get(kind, kind))
    expected = {"input": graph_inputs(graph, manifest), "output": graph_outputs(graph, manifest)}
    for side, tensors in expected.items():
        for tensor in sorted(set(tensors) ^ set(found[side])):
            raise EngineMismatch(
                f"{path} and the manifest disagree about {side} '{tensor}'. Build the engine again"
            )
        for tensor, wanted in tensors.items():
            if found[side][tensor] != wanted:
                raise EngineMismatch(
                    f"{path}: {side} '{tensor}' is {found[side][tensor][1]} "
                    f"{list(found[side][tensor][0])}, the manifest says {wanted[1]} "
                    f"{list(wanted[0])}. Build the engine again"
                )

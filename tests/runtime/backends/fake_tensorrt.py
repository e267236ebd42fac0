"""TensorRT's Python API for opening engines, over ``FakeCuda``: steps run in ONNX Runtime.

An "engine" is the ONNX graph behind a header. What the real one refuses, this one refuses: another
version's engine, unaligned or missing buffers, a capture before the first run, no memory left.
"""

from __future__ import annotations

import enum
import json
import types
from typing import Any

import onnxruntime

from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_kernels import DeviceTensor, graph_work, tensor_kind

MAGIC = b"fake engine "
WORKSPACE = 1024


def fake_engine(onnx_bytes: bytes, version: str) -> bytes:
    """An engine's bytes."""
    return MAGIC + json.dumps({"version": version}).encode() + b"\n" + onnx_bytes


class DataType(enum.Enum):
    FLOAT = "tensor(float)"
    HALF = "tensor(float16)"
    UINT8 = "tensor(uint8)"
    INT32 = "tensor(int32)"
    INT64 = "tensor(int64)"


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    INTERNAL_ERROR, ERROR = Severity.INTERNAL_ERROR, Severity.ERROR
    WARNING, INFO = Severity.WARNING, Severity.INFO

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, text: str) -> None:
        raise NotImplementedError


class Registry:
    """Plugin libraries: ours is recognised by its name."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> Any:  # noqa: A002
        ours = (type, version, plugin_namespace) == ("WindowedSelectiveScan", "1", "streamseg")
        return object() if ours and self.loaded else None

    def load_library(self, plugin_path: str) -> Any:
        self.loaded.append(plugin_path)
        return object()


class FakeTensorRt(types.ModuleType):
    """The module.

    Attributes:
        workspace: device memory of one execution context, in bytes.
        workspaces: the same, by graph, where it differs.
        blocks: address and size of the memory that each context was given, in order.
    """

    DataType, TensorIOMode, ILogger = DataType, TensorIOMode, ILogger
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, flavour: str, version: str, cuda: FakeCuda) -> None:
        super().__init__(flavour)
        self.__version__ = version
        self.cuda = cuda
        self.registry = Registry()
        self.workspace = WORKSPACE
        self.workspaces: dict[bytes, int] = {}
        self.blocks: list[tuple[int, int]] = []
        self.strays = False  # captures go to another stream than the one asked for
        self.capturable = True
        self.contexts, self.most_contexts = 0, 1000
        self.enqueued = 0
        self.caches: list[RuntimeCache] = []

    def get_plugin_registry(self) -> Registry:
        return self.registry

    def Runtime(self, logger: ILogger) -> Runtime:  # noqa: N802
        return Runtime(self, logger)


class Runtime:
    def __init__(self, module: FakeTensorRt, log: ILogger) -> None:
        self.module, self.logger = module, log
        self.engine_host_code_allowed = True  # not the real default: ours must say no

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        assert not self.engine_host_code_allowed
        head, _, content = serialized_engine.partition(b"\n")
        if not head.startswith(MAGIC):
            self.logger.log(Severity.ERROR, "header.magicTag == kEXPECTED_MAGIC_TAG failed")
            return None
        if json.loads(head[len(MAGIC) :])["version"] != self.module.__version__:
            self.logger.log(Severity.ERROR, "Version tag does not match")
            return None
        return Engine(self.module, self.logger, content)


class Engine:
    def __init__(self, module: FakeTensorRt, log: ILogger, content: bytes) -> None:
        self.module, self.log, self._content = module, log, content
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {entry.name: entry for entry in (*inputs, *outputs)}
        self.inputs = [entry.name for entry in inputs]
        self.outputs = [entry.name for entry in outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self.tensors[name].type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    @property
    def device_memory_size_v2(self) -> int:
        return self.module.workspaces.get(self._content, self.module.workspace)

    def create_execution_context(self, how: Any) -> Any:
        strategy = how.strategy if isinstance(how, RuntimeConfig) else how
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        if self.module.contexts >= self.module.most_contexts:
            self.log.log(Severity.ERROR, "Requested size was too large; out of memory")
            return None
        if isinstance(how, RuntimeConfig) and how.cache is not None:
            how.cache.compiled += len(self.tensors)
        self.module.contexts += 1
        return Context(self)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.module)


class RuntimeConfig:
    def __init__(self, module: FakeTensorRt) -> None:
        self.module = module
        self.cache: RuntimeCache | None = None
        self.strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        cache = RuntimeCache()
        self.module.caches.append(cache)
        return cache

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class RuntimeCache:
    def __init__(self) -> None:
        self.compiled = 0
        self.read = False

    def serialize(self) -> memoryview:
        return memoryview(b"compiled " + str(self.compiled).encode())

    def deserialize(self, blob: bytes) -> bool:
        self.read = blob.startswith(b"compiled ")
        return self.read


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.workspace = (0, 0)
        self.addresses: dict[str, int] = {}
        self.warm = False
        if engine.module.__name__ == "tensorrt_rtx":
            self.is_stream_capturable = lambda stream: self.warm and bool(stream)

    def __del__(self) -> None:
        self.engine.module.contexts -= 1

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0, "the workspace is not aligned"
        assert size >= self.engine.device_memory_size_v2, "the workspace is too small"
        self.engine.module.blocks.append((memory, size))
        self.workspace = (memory, memory + size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.tensors or memory % 256:
            self.engine.log.log(Severity.ERROR, f"{name}: unknown, or not aligned to 256 bytes")
            return False
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        module, engine = self.engine.module, self.engine
        queue = module.cuda.queue(stream_handle)
        missing = set(engine.tensors) - set(self.addresses)
        if missing or self.workspace == (0, 0):
            engine.log.log(Severity.ERROR, f"no address of {', '.join(sorted(missing))}")
            return False
        if queue.captured is not None and not (self.warm and module.capturable):
            queue.invalid = True
            engine.log.log(Severity.ERROR, "operation not permitted when stream is capturing")
            return False
        self.warm = True
        module.enqueued += 1
        arrays = {
            name: DeviceTensor(address, *tensor_kind(engine.tensors[name]))
            for name, address in self.addresses.items()
        }
        feed = {name: arrays[name] for name in engine.inputs}
        work = graph_work(
            module.cuda,
            engine.session,
            feed,
            {name: arrays[name] for name in engine.outputs},
            scratch=self.workspace,
        )
        if module.strays and queue.captured is not None:
            return True
        module.cuda.add(stream_handle, work)
        return True


# The real class -> the one here. A name that the backend uses and that is not here fails the tests
# that run on the fake, so that these are all there are.
CLASSES: dict[str, type] = {
    "Runtime": Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "IPluginRegistry": Registry,
    "IRuntimeConfig": RuntimeConfig,
    "IRuntimeCache": RuntimeCache,
    "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
    "TensorIOMode": TensorIOMode,
    "DataType": DataType,
}
OF_RTX = ("create_runtime_config", "IRuntimeConfig", "IRuntimeCache", "STATIC", "NONE")


def names_used(*, rtx: bool) -> dict[str, list[str]]:
    """Class of TensorRT -> the members that the fake has, which the real one must have too."""
    found = {
        owner: [name for name in vars(fake) if not name.startswith("_")]
        for owner, fake in CLASSES.items()
        if rtx or owner not in OF_RTX
    }
    found["Runtime"].append("engine_host_code_allowed")  # an attribute that is set
    found["ILogger"] = ["ERROR", "INTERNAL_ERROR", "WARNING"]
    if rtx:
        found["IExecutionContext"].append("is_stream_capturable")
        return found
    return {owner: [n for n in names if n not in OF_RTX] for owner, names in found.items()}

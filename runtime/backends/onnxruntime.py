"""ONNX Runtime on the CPU: sessions from verified bytes, bindings made once per buffer phase."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from streamseg.counting import count_of
from streamseg.errors import BackendError, BundleError, PluginNotFound
from streamseg.installation import install_command
from streamseg.plugins.loader import find_library
from streamseg.runtime.backends.host_lane import HostLane
from streamseg.runtime.backends.interface import (
    BackendOptions,
    Executable,
    StepPlan,
    require_threads,
)
from streamseg.runtime.backends.tensors import graph_inputs, graph_outputs
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

ELEMENT_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "uint8": "tensor(uint8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
}
# The fused kernel takes five times as long as the Add and LayerNormalization that it replaces.
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]
# Pixels of a frame from which an arena that doubles takes far more than a step needs. The lowering,
# whose tensors have many sizes, needs less in one that doubles.
_LARGE_FRAME = 1 << 20


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        BackendError: it is not installed; the message names the line that installs it.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime is not installed ({error}). Run: {install_command('cpu')} "
            "(or [cuda] in place of [cpu]; the two overwrite each other)"
        ) from None


def open_cpu_session(content: bytes, settings: Any) -> Any:
    """An ONNX Runtime session on the CPU, with the graph optimisations that pay there."""
    session = import_onnxruntime().InferenceSession(
        content,
        settings,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_SLOWER_FUSIONS,
    )
    # It keeps the bytes, and with them a second copy of all weights, only to start again on
    # another provider.
    session.disable_fallback()
    session._model_bytes = b""
    return session


@functools.cache
def share_arena() -> bool:
    """Make one arena for the graphs of a bundle; whether there is one now.

    Graphs of a bundle never run at once within a stream, so that what one needs the other can use.
    It grows by what is requested, where a session's own arena doubles. It lives as long as the
    process and holds no weights.
    """
    runtime = import_onnxruntime()
    try:
        memory = runtime.OrtMemoryInfo(
            "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
        )
        # Extended by what is requested (1), not to the next power of two (0); -1: the defaults.
        options = {
            "max_mem": 0,
            "arena_extend_strategy": 1,
            "initial_chunk_size_bytes": -1,
            # More than this of a free block stays free; the default gives 128 MB away unused.
            "max_dead_bytes_per_chunk": 1 << 20,
        }
        runtime.create_and_register_allocator(memory, runtime.OrtArenaCfg(options))
    except Exception as error:  # ONNX Runtime's errors share no public base class
        logger.info("graphs keep an arena each: %s", first_line(error))
        return False
    return True


def load_onnxruntime(bundle: Bundle, options: BackendOptions) -> Executable:
    """Load every graph of ``bundle`` into an ONNX Runtime session on the CPU."""
    runtime = import_onnxruntime()
    require_threads(options)
    cautions: list[str] = []
    native = find_native(options, cautions.append)
    threads = options.threads
    large = native is not None and _is_large(bundle.manifest)
    shared = (len(bundle.graphs) > 1 or large) and share_arena()
    sessions = {}
    for name, content in bundle.graphs.items():
        settings = runtime.SessionOptions()
        if shared:
            settings.add_session_config_entry("session.use_env_allocators", "1")
            settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        settings.log_severity_level = 3
        # The second run would plan one block for all tensors and take it beside what the first
        # run took: half as much memory again, and no time gained.
        settings.enable_mem_pattern = False
        # A buffer that a later tensor of the same size could take is kept until then: at 1024x2048
        # a third more memory, and no time gained.
        settings.enable_mem_reuse = False
        if threads is not None:
            settings.intra_op_num_threads = threads
        if native is not None:
            settings.register_custom_ops_library(native)
        sessions[name] = open_session(
            name, bundle, functools.partial(open_cpu_session, content, settings)
        )
    kernels = "native kernels" if native else lowering_reason(options)
    counted = "default threads" if threads is None else count_of(threads, "thread")
    description = f"onnxruntime {runtime.__version__} CPU, {counted}, {kernels}"
    parallel = options.parallel or 1
    if parallel > 1:
        description += f", {count_of(parallel, 'step')} at once"
    logger.info("running on %s", description)
    executable = OnnxRuntimeExecutable(
        runtime, sessions, bundle.manifest, description=description, parallel=parallel
    )
    executable.cautions = cautions
    return executable


def _is_large(manifest: Manifest) -> bool:
    return manifest.frame.height * manifest.frame.width >= _LARGE_FRAME


def open_session(name: str, bundle: Bundle, open_it: Callable[[], Any]) -> Any:
    """A session of one graph, checked against the manifest.

    Args:
        name: of the graph.
        bundle: that it is of.
        open_it: opens it, from verified bytes and not from the path: what was hashed is what runs.
            ONNX Runtime would read files that the bytes refer to; ``read_bundle`` refuses those.
    Raises:
        BackendError: ONNX Runtime refuses the graph.
        BundleError: its tensors disagree with the manifest.
    """
    try:
        session = open_it()
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise BackendError(
            f"ONNX Runtime {import_onnxruntime().__version__} refuses graph '{name}' of "
            f"{bundle.path}: {first_line(error)}"
        ) from error
    check_interface(session, name, bundle.manifest)
    return session


def find_native(
    options: BackendOptions, report: Callable[[str], None] = logger.warning
) -> str | None:
    """Path of the native library to register, or ``None`` to run the lowering.

    Args:
        options: how to load.
        report: gets the reason where the lowering runs for want of the library.
    """
    if options.native is False:
        return None
    try:
        return str(find_library(options.library))
    except PluginNotFound as error:
        if options.native or options.library is not None:
            raise
        report(f"running the lowering: {error}")
        return None


def lowering_reason(options: BackendOptions) -> str:
    """Why the lowering runs, human-readable."""
    return "lowering (requested)" if options.native is False else "lowering (no native library)"


def check_interface(session: Any, name: str, manifest: Manifest) -> None:
    """Raise BundleError unless the graph's names, shapes and types are the manifest's."""
    graph = manifest.graphs[name]
    for what, entries, expected in (
        ("input", session.get_inputs(), graph_inputs(graph, manifest)),
        ("output", session.get_outputs(), graph_outputs(graph, manifest)),
    ):
        found = {entry.name: (tuple(entry.shape), entry.type) for entry in entries}
        differing = sorted(set(found) ^ set(expected))
        if differing:
            raise BundleError(
                f"graph '{name}' and manifest disagree about these {what}s: {', '.join(differing)}"
            )
        for tensor, (shape, dtype) in expected.items():
            if found[tensor] != (shape, ELEMENT_TYPES[dtype]):
                raise BundleError(
                    f"graph '{name}': {what} '{tensor}' is {found[tensor][1]} "
                    f"{list(found[tensor][0])}, the manifest says {dtype} {list(shape)}"
                )


class OnnxRuntimeExecutable(Executable):
    """Sessions of one bundle; see ``load_onnxruntime``."""

    def __init__(
        self,
        runtime: Any,
        sessions: dict[str, Any],
        manifest: Manifest,
        *,
        description: str,
        parallel: int = 1,
    ) -> None:
        self.runtime = runtime
        self.sessions = sessions
        self.manifest = manifest
        self.description, self.parallel = description, parallel
        # With one thread, steps of all lanes run one after the other, as on a device.
        self.worker = ThreadPoolExecutor(parallel, thread_name_prefix="streamseg-step")

    def new_lane(self) -> OnnxRuntimeLane:
        """Make the buffers of one stream."""
        return OnnxRuntimeLane(self)

    def close(self) -> None:
        """Drop the sessions, after the step under way."""
        self.worker.shutdown()
        self.sessions = {}


class OnnxRuntimeLane(HostLane):
    """NumPy buffers that ONNX Runtime reads and writes in place, in the executable's threads.

    A binding is made the first time a plan occurs; carried state has two plans, which alternate.
    """

    def __init__(self, executable: OnnxRuntimeExecutable) -> None:
        super().__init__(executable.manifest)
        self._executable = executable
        self._bindings: dict[StepPlan, Any] = {}
        self._under_way: Future[None] | None = None

    def start(self, plan: StepPlan) -> None:
        """Hand the plan's binding to the executable's threads."""
        if self._under_way is not None:
            raise BackendError("a step is under way; finish it before the next")
        session = self._executable.sessions.get(plan.graph)
        if session is None:
            raise BackendError("the stream is closed")
        binding = self._bindings.get(plan)
        if binding is None:
            binding = self._bindings[plan] = self._bind(session, plan)
        run = functools.partial(self._run, session, plan.graph, binding)
        self._under_way = self._executable.worker.submit(run)

    def finish(self) -> None:
        """Wait for the step under way."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            raise BackendError("no step is under way")
        under_way.result()

    def _run(self, session: Any, graph: str, binding: Any) -> None:
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise BackendError(f"graph '{graph}' failed: {first_line(error)}") from error

    def _settle(self) -> None:
        """Wait until no step touches the buffers; ``finish`` still reports how it went."""
        if self._under_way is not None:
            wait([self._under_way])

    def _bind(self, session: Any, plan: StepPlan) -> Any:
        binding = session.io_binding()
        wrap = self._executable.runtime.OrtValue.ortvalue_from_numpy
        for tensor, array in self._inputs(plan).items():
            binding.bind_ortvalue_input(tensor, wrap(array))
        for tensor, array in self._results(plan).items():
            binding.bind_ortvalue_output(tensor, wrap(array))
        return binding

    def close(self) -> None:
        """Wait for the step under way; NumPy releases the buffers."""
        self._settle()


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]

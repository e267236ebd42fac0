"""OpenVINO: compiled graphs, requests made once per buffer phase, state in buffers of our own.

Our operators come as an extension library, which serves the CPU; elsewhere, and without it, the
graphs' lowering to standard ops runs. A compiled graph may be kept (``streamseg build --backend
openvino``), so that later starts skip the compilation.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamseg.counting import count_of
from streamseg.errors import BackendError, PluginNotFound
from streamseg.installation import install_command, package_command
from streamseg.plugins.loader import find_openvino_library
from streamseg.runtime.backends.bfloat16 import compare_products, compare_steps
from streamseg.runtime.backends.compiled_files import CompiledKey, read_compiled, write_compiled
from streamseg.runtime.backends.heap import trim_heap
from streamseg.runtime.backends.host_lane import HostLane
from streamseg.runtime.backends.interface import (
    OPENVINO_PRECISIONS,
    Array,
    BackendOptions,
    Executable,
    StepPlan,
    require_threads,
)
from streamseg.runtime.backends.openvino_attention import join_strips
from streamseg.runtime.backends.openvino_ports import check_interface, input_names, result_names
from streamseg.runtime.bundle.bundle import Bundle, digest
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

# Our name of a precision -> OpenVINO's.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# Devices that stand for others, which OpenVINO chooses among: they name no precision, and what is
# compiled for them cannot be kept.
_VIRTUAL = ("AUTO", "HETERO", "MULTI")


def import_openvino() -> Any:
    """The openvino module.

    Raises:
        BackendError: it is not installed; the message names the line that installs it.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise BackendError(
            f"OpenVINO is not installed ({error}). Run: {install_command('openvino')}"
        ) from None


def is_virtual(device: str) -> bool:
    """Whether a device, such as ``AUTO:GPU,CPU``, stands for others."""
    return device.split(":")[0] in _VIRTUAL


def release_of(runtime: Any) -> str:
    """The release, such as ``2026.4.1``, of the openvino module."""
    return str(runtime.__version__).split("-")[0]


@dataclass(frozen=True)
class OpenVinoSetup:
    """OpenVINO as it is set up for a bundle.

    Attributes:
        runtime: the openvino module.
        core: with our extension where ``library`` is not ``None``.
        device: OpenVINO's name of it, such as ``CPU``.
        library: the extension, or ``None``: the lowering runs.
        config: properties for compiling.
        precision: what was requested: ``fp32``, ``bf16`` or ``fp16``; empty: the device's default.
        reason: why this precision, for people; empty where the caller named it.
    """

    runtime: Any
    core: Any
    device: str
    library: Path | None
    config: dict[str, Any]
    precision: str
    reason: str

    def key(self, content: bytes) -> CompiledKey:
        """What a kept compiled graph must have been made from."""
        device = self.core.get_property(self.device, "FULL_DEVICE_NAME")
        return CompiledKey(
            graph_sha256=digest(content),
            openvino=str(self.runtime.__version__),
            library_sha256=digest(self.library.read_bytes()) if self.library else "",
            device=f"{self.device} {device}",
            config=" ".join(f"{name}={value}" for name, value in sorted(self.config.items())),
        )


def load_openvino(bundle: Bundle, options: BackendOptions) -> Executable:
    """Compile every graph of ``bundle``, or take it from the cache.

    Raises:
        BackendError: OpenVINO is missing, refuses a graph, or has no such device or precision.
        BundleError: the graphs' names, shapes or types disagree with the manifest.
        PluginNotFound: ``native=True`` and there is no extension for this OpenVINO.
    """
    cautions: list[str] = []
    setup = set_up(options, cautions.append, bundle)
    compiled = {}
    for name, content in bundle.graphs.items():
        compiled[name] = _load_graph(setup, name, content, bundle)
        check_interface(compiled[name], name, bundle.manifest)
    taken = _precision_taken(setup, compiled)
    kernels = "native kernels" if setup.library else "lowering"
    threads = "default threads" if options.threads is None else count_of(options.threads, "thread")
    description = (
        f"openvino {release_of(setup.runtime)} {setup.device}, {taken}, {threads}, {kernels}"
    )
    parallel = setup.config.get("NUM_STREAMS", 1)
    if parallel > 1:
        description += f", {count_of(parallel, 'step')} at once"
    logger.info("running on %s", description)
    executable = OpenVinoExecutable(
        setup.runtime, compiled, bundle.manifest, description=description, parallel=parallel
    )
    executable.cautions = cautions
    return executable


@functools.cache
def shared_core(library: Path | None = None) -> Any:
    """OpenVINO's core with an extension; it is kept for as long as the process runs.

    OpenVINO gives the thread that first uses a core an alternate signal stack, and unmaps it with
    the core. Where that is still the thread's stack, because cores went in another order than they
    came or in another thread, the next signal ends the process.

    Raises:
        BackendError: OpenVINO is not installed.
        RuntimeError: OpenVINO rejects the extension.
    """
    core = import_openvino().Core()
    if library is not None:
        core.add_extension(str(library))
    return core


def set_up(options: BackendOptions, report: Callable[[str], None], bundle: Bundle) -> OpenVinoSetup:
    """Set OpenVINO up: device, extension, precision, threads.

    Args:
        options: how to load.
        report: gets the reason where the lowering runs for want of the extension.
        bundle: what will run; the precision may depend on it.
    """
    runtime = import_openvino()
    require_threads(options)
    device = options.device or "CPU"
    library = _find_extension(runtime, device, options, report)
    core = shared_core(library)
    _require_device(core, device)

    def compare() -> tuple[bool, str]:
        if "int8" in bundle.manifest.precision_name:
            return compare_steps(bundle, options, load_openvino)
        return compare_products(core, options.threads)

    precision, reason = choose_precision(core, device, options.precision, compare)
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision:
        config["INFERENCE_PRECISION_HINT"] = _HINTS[precision]
    if device == "CPU":
        # One stream of work, and threads that the system places: pinned ones of two processes
        # share cores while others idle.
        parallel = options.parallel or 1
        config |= {"NUM_STREAMS": parallel, "ENABLE_CPU_PINNING": False}
        if options.threads is not None:
            config["INFERENCE_NUM_THREADS"] = options.threads * parallel
    elif options.threads is not None:
        raise BackendError(f"device '{device}' takes no number of threads; leave it out")
    return OpenVinoSetup(runtime, core, device, library, config, precision, reason)


def choose_precision(
    core: Any, device: str, wish: str | None, compare: Callable[[], tuple[bool, str]]
) -> tuple[str, str]:
    """The precision to ask OpenVINO for, and why: a wish needs no reason.

    ``auto`` takes bfloat16 where the processor multiplies it (AVX512_BF16, AMX) and is faster with
    it, else float32; on other devices, the device's own default.

    Args:
        core: OpenVINO's.
        device: OpenVINO's name of it.
        wish: the option's value.
        compare: whether bfloat16 is faster, and the reason; called only where that decides.
    """
    wish = wish or "auto"
    if wish not in OPENVINO_PRECISIONS:
        known = ", ".join(OPENVINO_PRECISIONS)
        raise BackendError(f"precision is '{wish}', expected one of: {known}")
    if wish != "auto" and is_virtual(device):
        raise BackendError(
            f"device '{device}' does not report its precision, expected one device, such as CPU. "
            "Use --precision auto"
        )
    if wish != "auto":
        return wish, ""
    if device != "CPU":
        return "", "the device's default precision"
    if not multiplies_bfloat16(core):
        return "fp32", "the processor does not multiply bfloat16"
    faster, reason = compare()
    return "bf16" if faster else "fp32", reason


def multiplies_bfloat16(core: Any) -> bool:
    """Whether OpenVINO's CPU has bfloat16 products."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _precision_taken(setup: OpenVinoSetup, compiled: dict[str, Any]) -> str:
    """What the graphs compute in, which must be what was requested."""
    if is_virtual(setup.device):
        return setup.reason
    names = set()
    for graph in compiled.values():
        names.add(graph.get_property("INFERENCE_PRECISION_HINT").to_string())
    taken = " and ".join(sorted(_short(name) for name in names))
    if setup.precision and taken != setup.precision:
        raise BackendError(
            f"device '{setup.device}' computes in {taken}, expected {setup.precision}. Use "
            "--precision auto"
        )
    return f"{taken} ({setup.reason})" if setup.reason else taken


def _short(name: str) -> str:
    """Our name for OpenVINO's long or short name of a type."""
    named = {"float32": "fp32", "f32": "fp32", "float16": "fp16", "f16": "fp16", "bfloat16": "bf16"}
    return named.get(name, name)


def _require_device(core: Any, device: str) -> None:
    if device == "CPU":
        return  # asking for the others would load their plugins
    available = list(core.available_devices)
    # Names may carry a number (GPU.1) or be virtual (AUTO:GPU,CPU), which OpenVINO resolves.
    known = {name.split(".")[0] for name in available}
    if device.split(":")[0].split(".")[0] not in known and not is_virtual(device):
        raise BackendError(
            f"device '{device}' is not one of OpenVINO's here; available: {', '.join(available)}"
        )


def _find_extension(
    runtime: Any, device: str, options: BackendOptions, report: Callable[[str], None]
) -> Path | None:
    if options.native is False:
        return None
    if device != "CPU":
        if options.native or options.library is not None:
            raise PluginNotFound(
                f"the native operators run on OpenVINO's CPU device, not on '{device}'; leave "
                "--native and --library out"
            )
        return None
    try:
        return find_openvino_library(release_of(runtime), options.library)
    except PluginNotFound as error:
        if options.native or options.library is not None:
            raise
        report(f"running the lowering: {error}")
        return None


def _load_graph(setup: OpenVinoSetup, name: str, content: bytes, bundle: Bundle) -> Any:
    """A compiled graph, from the cache where it holds one made from the same."""
    kept = None if is_virtual(setup.device) else read_compiled(setup.key(content))
    if kept is not None:
        try:
            return setup.core.import_model(io.BytesIO(kept), setup.device, setup.config)
        except RuntimeError as error:  # OpenVINO's errors
            logger.warning("a kept graph is compiled again: %s", last_line(error))
    return _compile_named(setup, name, content, bundle)


def _compile_named(setup: OpenVinoSetup, name: str, content: bytes, bundle: Bundle) -> Any:
    try:
        return compile_graph(setup, content)
    except (RuntimeError, ValueError) as error:
        raise BackendError(
            f"OpenVINO {release_of(setup.runtime)} refuses graph '{name}' of {bundle.path}: "
            f"{last_line(error)}"
        ) from error


def build_openvino(bundle: Bundle, options: BackendOptions) -> list[Path]:
    """Compile the graphs and keep them, so that later starts with the same options skip it.

    Returns:
        Where they are kept, in the order of the bundle's graphs.
    Raises:
        BackendError: as for ``load_openvino``; or a file cannot be written.
    """
    setup = set_up(options, logger.warning, bundle)
    if is_virtual(setup.device):
        raise BackendError(
            f"no graph is kept for device '{setup.device}', expected one device, such as CPU"
        )
    paths = []
    for name, content in bundle.graphs.items():
        compiled = _compile_named(setup, name, content, bundle)
        check_interface(compiled, name, bundle.manifest)
        _precision_taken(setup, {name: compiled})
        paths.append(write_compiled(setup.key(content), compiled.export_model().getvalue()))
    return paths


def compile_graph(setup: OpenVinoSetup, content: bytes) -> Any:
    """Compile a graph from its verified bytes."""
    if setup.library is None:
        content = _inline(content)
    model = setup.core.read_model(io.BytesIO(content))
    if setup.device == "CPU" and platform.machine() in ("x86_64", "AMD64"):
        join_strips(model)
    return setup.core.compile_model(model, setup.device, setup.config)


def _inline(content: bytes) -> bytes:
    """The graph in standard ops: OpenVINO does not read functions of a model."""
    try:
        onnx = importlib.import_module("onnx")
        inliner = importlib.import_module("onnx.inliner")
    except ImportError as error:
        raise BackendError(
            f"OpenVINO without the native operators needs onnx ({error}). "
            f"Run: {package_command('onnx')}"
        ) from None
    message = importlib.import_module("google.protobuf.message")
    try:
        model = onnx.load_from_string(content)
    except message.DecodeError as error:
        raise ValueError(str(error)) from error
    if not model.functions:
        return content
    inlined: bytes = inliner.inline_local_functions(model).SerializeToString()
    return inlined


class OpenVinoExecutable(Executable):
    """Compiled graphs of one bundle; see ``load_openvino``."""

    def __init__(
        self,
        runtime: Any,
        compiled: dict[str, Any],
        manifest: Manifest,
        *,
        description: str,
        parallel: int = 1,
    ) -> None:
        self.runtime = runtime
        self.compiled = compiled
        self.manifest = manifest
        self.description, self.parallel = description, parallel
        self._trimmed = False

    def trim_once(self) -> None:
        """Give back what compiling needed, which the first step frees."""
        if not self._trimmed:
            self._trimmed = True
            trim_heap()

    def new_lane(self) -> OpenVinoLane:
        """Make the buffers of one stream."""
        return OpenVinoLane(self)

    def close(self) -> None:
        """Drop the compiled graphs."""
        self.compiled = {}


class OpenVinoLane(HostLane):
    """NumPy buffers that OpenVINO reads and writes in place.

    A request is made the first time a plan occurs; carried state has two plans, which alternate.
    """

    def __init__(self, executable: OpenVinoExecutable) -> None:
        super().__init__(executable.manifest)
        self._executable = executable
        self._requests: dict[StepPlan, Any] = {}
        self._under_way: tuple[str, Any] | None = None

    def start(self, plan: StepPlan) -> None:
        """Start the plan's request in OpenVINO's threads."""
        if self._under_way is not None:
            raise BackendError("a step is under way; finish it before the next")
        compiled = self._executable.compiled.get(plan.graph)
        if compiled is None:
            raise BackendError("the stream is closed")
        request = self._requests.get(plan)
        if request is None:
            request = self._requests[plan] = self._bind(compiled, plan)
        try:
            request.start_async()
        except RuntimeError as error:
            raise BackendError(f"graph '{plan.graph}' failed: {last_line(error)}") from error
        self._under_way = (plan.graph, request)

    def finish(self) -> None:
        """Wait for the step under way."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            raise BackendError("no step is under way")
        graph, request = under_way
        try:
            request.wait()
        except RuntimeError as error:
            raise BackendError(f"graph '{graph}' failed: {last_line(error)}") from error
        self._executable.trim_once()

    def _settle(self) -> None:
        """Wait until no step touches the buffers; ``finish`` still reports how it went."""
        if self._under_way is not None:
            try:
                self._under_way[1].wait()
            except RuntimeError as error:
                logger.debug("the step failed: %s", last_line(error))

    def _bind(self, compiled: Any, plan: StepPlan) -> Any:
        request = compiled.create_infer_request()
        inputs, results = input_names(compiled), result_names(compiled)

        def bind(port: Any, array: Array) -> None:
            request.set_tensor(port, self._executable.runtime.Tensor(array, shared_memory=True))

        for tensor, array in self._inputs(plan).items():
            bind(inputs[tensor], array)
        for tensor, array in self._results(plan).items():
            bind(results[tensor], array)
        return request

    def close(self) -> None:
        """Wait for the step under way and drop the requests; NumPy releases the buffers."""
        self._settle()
        self._requests = {}


def last_line(error: Exception) -> str:
    """The last line of an error's text that is not empty: OpenVINO puts places in front."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]

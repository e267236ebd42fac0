"""Building a bundle's graphs into TensorRT engines; needs onnx and TensorRT, no torch.

Networks are strongly typed: precision is what the graph says. TensorRT 10 and 11 and TensorRT-RTX
take the same calls; what only some have is requested by name.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from streamseg.errors import BackendError, ExportError
from streamseg.export.engine_options import EngineOptions, Progress
from streamseg.export.precision import half_graph
from streamseg.export.tensorrt_graph import lowered_graph, plugin_graph
from streamseg.files import check_place, whole_file
from streamseg.installation import package_command
from streamseg.plugins.loader import find_plugins
from streamseg.runtime.backends.engine_files import (
    EngineRecord,
    Verification,
    engine_cache,
    write_engine,
)
from streamseg.runtime.backends.gpu import Gpu, find_gpu
from streamseg.runtime.backends.tensorrt_library import hash_library, import_tensorrt, load_plugins
from streamseg.runtime.bundle.bundle import Bundle, digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkSummary:
    """What TensorRT made of a graph before it built it.

    Attributes:
        tensors: name -> type and shape of every input and output.
        layers: number of layers by kind.
        types: number of layers by the type of what they write.
        sampling: how each GridSample and Resize is parsed, in the graph's order.
        tf32: whether the builder may use TF32.
        seconds: how long the build took.
    """

    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)
    sampling: Sequence[Mapping[str, str]] = ()
    tf32: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class BuiltEngine:
    """An engine on disk: its path and record, and the network that it was built from."""

    path: Path
    record: EngineRecord
    network: NetworkSummary


def build_engines(
    bundle: Bundle, *, out: Path | None = None, options: EngineOptions | None = None
) -> list[BuiltEngine]:
    """Build every graph of a bundle, and compare the engines with ONNX Runtime on the CPU.

    Args:
        bundle: from ``read_bundle``.
        out: folder for ``<graph>.engine`` and sidecars; ``None`` for the cache.
        options: see ``EngineOptions``.
    Returns:
        Each engine.
    Raises:
        BackendError: TensorRT is missing, too old, or refuses the graph; the engines' results
            differ from ONNX Runtime's by more than the bar; nothing is written then.
        ExportError: the graphs cannot be converted to ``precision``, ``out`` is in the bundle, or a
            file cannot be written, which is reported before anything is built.
        PluginNotFound: ``native=True`` and there is no usable plugin library.
    """
    if out is not None and out.resolve().is_relative_to(bundle.path.resolve()):
        raise ExportError(
            f"engines in {out} would be passed on with the bundle, and they are executable code of "
            "this machine; choose a folder outside the bundle, or none for the cache"
        )
    chosen = options or EngineOptions()
    precision = check_precision(bundle, chosen.precision)
    for name in bundle.graphs:
        check_place((engine_cache() if out is None else out) / f"{name}.engine", ExportError)
    if chosen.timing_cache is not None:
        check_place(chosen.timing_cache, ExportError)
    flavour, trt = import_tensorrt(chosen.flavour)
    gpu = find_gpu()
    if gpu is not None and not chosen.unverified:
        _require_reference()
    if flavour == "tensorrt" and gpu is None:
        raise BackendError("TensorRT builds engines on the GPU that runs them; no GPU was found")
    capabilities = chosen.capabilities or ((gpu.capability,) if gpu else ())
    if not capabilities:
        raise BackendError("no GPU here to build for; name one, such as: --capability 8.6")
    plugins, reason = find_plugins(chosen.native, chosen.library)
    if plugins is None and chosen.native is None:
        logger.warning("building from the lowering, which runs more slowly: %s", reason)
    if plugins is not None:
        load_plugins(trt, flavour, plugins)
    drafts = []
    for name, content in bundle.graphs.items():
        model = onnx.load_from_string(content)
        if precision != bundle.manifest.precision_name:
            # State keeps the manifest's types: the runtime's buffers are made after those.
            model = half_graph(model, bundle.manifest.state)
        graph = lowered_graph(model) if plugins is None else plugin_graph(model)
        engine, network = _build(trt, flavour, graph, name, capabilities, chosen)
        record = EngineRecord(
            graph=name,
            graph_sha256=digest(content),
            flavour=flavour,
            version=str(trt.__version__),
            gpu=gpu.name if gpu and flavour == "tensorrt" else "",
            capabilities=tuple(capabilities),
            driver=_driver(gpu),
            precision=precision,
            plugins_sha256=hash_library(plugins) if plugins else "",
            engine_sha256=digest(engine),
            tf32=network.tf32,
            board=chosen.board,
            build_seconds=network.seconds,
        )
        drafts.append((engine, record, network))
    runs_here = gpu is not None and gpu.capability in capabilities
    checked = _verify(bundle, [draft[:2] for draft in drafts], chosen) if runs_here else None
    if not runs_here:
        logger.warning("the engines were not compared with ONNX Runtime: they do not run here")
    return [
        _place(engine, replace(record, verification=checked), network, out)
        for engine, record, network in drafts
    ]


def _verify(
    bundle: Bundle, engines: Sequence[tuple[bytes, EngineRecord]], options: EngineOptions
) -> Verification | None:
    """Compare before anything is kept; ``None`` where that failed and ``unverified`` allows it."""
    # Comparing takes OpenCV and a runtime; building for another machine needs neither.
    from streamseg.export.engine_verification import verify_engines

    try:
        with tempfile.TemporaryDirectory(prefix="streamseg-engines-") as folder:
            for engine, record in engines:
                write_engine(Path(folder) / f"{record.graph}.engine", engine, record)
            found = verify_engines(
                bundle,
                Path(folder),
                record=engines[0][1],
                clip=options.clip,
                source=options.clip_name,
                library=options.library,
            )
    except BackendError as error:
        if not options.unverified:
            raise
        logger.warning("the engines were not compared with ONNX Runtime: %s", error)
        return None
    if not found.passed and not options.unverified:
        raise BackendError(
            f"the engines of {bundle.path} compute wrong results, and were discarded: "
            f"{found.describe()}. Try --no-native, another --precision or another TensorRT; "
            "--unverified keeps them"
        )
    return found


def _require_reference() -> None:
    """Raise BackendError unless ONNX Runtime is here to compare with."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise BackendError(
            "engines are compared with ONNX Runtime before they are kept, and it is not installed. "
            f"Run: {package_command('onnxruntime')}, or build with --unverified"
        )


def _place(
    engine: bytes, record: EngineRecord, network: NetworkSummary, out: Path | None
) -> BuiltEngine:
    folder = engine_cache() / record.key if out is None else out
    path = folder / f"{record.graph}.engine"
    write_engine(path, engine, record)
    return BuiltEngine(path, record, network)


def check_precision(bundle: Bundle, wanted: str | None) -> str:
    """The precision of the engines.

    Raises:
        ExportError: the bundle's graphs cannot be brought there.
    """
    have = bundle.manifest.precision_name
    if wanted is None or wanted == have:
        return have
    reached = {("fp32", "fp16"): "fp16", ("int8", "fp16"): "int8+fp16"}
    if (have, wanted) in reached:
        return reached[have, wanted]
    command = {
        "fp32": "streamseg export CHECKPOINT --precision fp32",
        "fp16": "streamseg export CHECKPOINT --precision fp16",
        "int8": "streamseg calibrate FLOAT32_BUNDLE --dataset NAME:ROOT",
    }.get(wanted, "streamseg build --help")
    raise ExportError(
        f"{bundle.path} is {have}, which cannot become {wanted}: precision is baked into the "
        f"graphs. Make another bundle with: {command} -o {bundle.path}-{wanted}"
    )


def _driver(gpu: Gpu | None) -> str:
    return gpu.driver if gpu else ""


def _build(
    trt: Any,
    flavour: str,
    graph: ModelProto,
    name: str,
    capabilities: Sequence[str],
    options: EngineOptions,
) -> tuple[bytes, NetworkSummary]:
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph.SerializeToString()):
        errors = [str(parser.get_error(i)).splitlines()[-1] for i in range(parser.num_errors)]
        raise BackendError(
            f"{flavour} {trt.__version__} refuses graph '{name}': {'; '.join(errors)[:500]}"
        )
    config = _configure(trt, flavour, builder, capabilities, options)
    summary = replace(_summarise(trt, network), tf32=config.get_flag(trt.BuilderFlag.TF32))
    _check_interface(summary, graph, name)
    logger.info("graph '%s': %s", name, dict(summary.types))
    begun = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    summary = replace(summary, seconds=round(time.monotonic() - begun, 1))
    if engine is None:
        raise BackendError(
            f"{flavour} {trt.__version__} could not build graph '{name}'; its reasons are above"
        )
    if options.timing_cache is not None and flavour == "tensorrt":
        with whole_file(options.timing_cache, ExportError) as draft:
            draft.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(engine), summary


def _summarise(trt: Any, network: Any) -> NetworkSummary:
    ends = [network.get_input(i) for i in range(network.num_inputs)]
    ends += [network.get_output(i) for i in range(network.num_outputs)]
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    outputs = [layer.get_output(0) for layer in layers if layer.num_outputs]
    return NetworkSummary(
        tensors={entry.name: (entry.dtype.name, tuple(entry.shape)) for entry in ends},
        layers=dict(Counter(str(layer.type).rpartition(".")[2] for layer in layers)),
        types=dict(Counter(entry.dtype.name for entry in outputs if entry is not None)),
        sampling=[described for layer in layers if (described := _sampling(trt, layer))],
    )


def _sampling(trt: Any, layer: Any) -> dict[str, str]:
    """What a GridSample or Resize is in the parsed network; empty for other layers."""
    names: dict[str, tuple[str, ...]] = {
        "GRID_SAMPLE": ("interpolation_mode", "align_corners", "sample_mode"),
        "RESIZE": ("resize_mode", "coordinate_transformation"),
    }
    kind = str(layer.type).rpartition(".")[2]
    if kind not in names:
        return {}
    # A network hands out its layers as ILayer; assigning the class gives the kind's own fields.
    layer.__class__ = trt.IGridSampleLayer if kind == "GRID_SAMPLE" else trt.IResizeLayer
    found = {name: str(getattr(layer, name)).rpartition(".")[2] for name in names[kind]}
    return {"kind": kind, **found}


# TensorRT's names of the types that inputs and outputs have.
_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
}


def _check_interface(summary: NetworkSummary, graph: ModelProto, name: str) -> None:
    """Raise BackendError unless TensorRT's network has the graph's inputs and outputs."""
    wanted = {
        entry.name: (
            _TYPES.get(entry.type.tensor_type.elem_type, "another type"),
            tuple(axis.dim_value for axis in entry.type.tensor_type.shape.dim),
        )
        for entry in (*graph.graph.input, *graph.graph.output)
    }
    differing = sorted(
        tensor
        for tensor in {*wanted, *summary.tensors}
        if wanted.get(tensor) != summary.tensors.get(tensor)
    )
    if differing:
        first = differing[0]
        raise BackendError(
            f"TensorRT parsed graph '{name}' with other inputs and outputs: '{first}' is "
            f"{summary.tensors.get(first)}, the graph says {wanted.get(first)} "
            f"({len(differing)} differ)"
        )


def _strongly_typed(trt: Any) -> int:
    """Creation flags: TensorRT 11 knows nothing else and may drop the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(
    trt: Any, flavour: str, builder: Any, capabilities: Sequence[str], options: EngineOptions
) -> Any:
    config = builder.create_builder_config()
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.progress is not None:
        config.progress_monitor = _monitor(trt, options.progress)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if flavour == "tensorrt_rtx" and user_allocation is not None:
        # Without it RTX may allocate in the middle of a step, which no capture allows.
        config.set_flag(user_allocation)
    if flavour == "tensorrt_rtx":
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            known = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
            if known is None:
                names = [name for name in trt.ComputeCapability.__members__ if "SM" in name]
                raise BackendError(
                    f"TensorRT-RTX {trt.__version__} builds for no compute capability "
                    f"{capability}; it has {', '.join(names)}"
                )
            config.set_compute_capability(known, i)
    elif options.timing_cache is not None:
        file = options.timing_cache
        content = file.read_bytes() if file.exists() else b""
        config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)
    return config


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes TensorRT's phases on; names of methods are TensorRT's."""

        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
            self.steps[phase] = steps
            progress(phase, 0, steps)

        def phase_finish(self, phase: str) -> None:
            steps = self.steps.pop(phase, 0)
            progress(phase, steps, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            return progress(phase, step + 1, self.steps.get(phase, 0))

    return Monitor()

"""NVIDIA Triton model repositories: a bundle's step graph behind Triton's sequence batcher.

Triton keeps the state: each camera is a sequence, and the state outputs of a request are the state
inputs of the sequence's next one. Of a bundle for N streams a step, Triton gathers the frames and
states of up to N sequences that are ready. docs/scale.md says what was read where, and what has
run.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamseg.errors import EngineMismatch, ExportError, PluginNotFound
from streamseg.files import whole_folder
from streamseg.option_fields import option
from streamseg.plugins.loader import (
    find_library,
    find_ort_cuda_library,
    find_tensorrt_library,
    list_files,
)
from streamseg.runtime.backends.batched import WAIT_MS
from streamseg.runtime.backends.engine_files import read_record
from streamseg.runtime.backends.interface import (
    batch_wait_option,
    native_option,
    threads_option,
)
from streamseg.runtime.backends.tensors import output_shape
from streamseg.runtime.bundle.bundle import Bundle, digest
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.bundle.state import StateSpec

CONFIG = "config.pbtxt"
DATA_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}
REASONS = {
    "ring": "its graph reads features of several past frames, which its schedule picks; Triton "
    "hands a request only what the sequence's last request put out",
    "key": "its schedule alternates between a graph for key frames and one for the frames between "
    "them; a Triton model is one graph",
    "given": "its state comes from outside the video; Triton keeps only what the graph puts out",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class TritonOptions:
    """How the server is to run a bundle.

    Attributes:
        sequences: streams that hold state at the same time; needed for a bundle with state.
        name: of the model; ``None`` takes the name of the bundle's folder.
        engine: TensorRT engine of the step graph, from ``streamseg build``; ``None`` writes the
            ONNX Runtime variant.
        native: our operators: ``True`` or fail, ``False`` never, ``None`` if their library is
            there.
        library: absolute path of an operator or plugin library instead of the installed one.
        server_path: where the server sees the repository; ``None`` for where it is written.
        idle_seconds: how long a silent stream keeps its state.
        instances: copies of the model that run beside each other.
        gpu: run instances on GPUs; always so for TensorRT.
        threads: CPU threads of one step; ``None`` leaves it to ONNX Runtime.
        batch_wait_ms: milliseconds that a batch waits for frames of further streams; ``None``: 10.
    """

    sequences: int | None = option(
        "Streams that keep state at once; required for a bundle with state.",
        default=None,
        low=1,
        common=True,
    )
    name: str | None = option("Name of the model.", default=None, unset="the bundle's folder")
    engine: Path | None = option(
        "TensorRT engine, or a folder of engines.", default=None, unset="use ONNX Runtime"
    )
    native: bool | None = native_option()
    library: Path | None = option(
        "Library of native operators, an absolute path.", default=None, unset="the installed one"
    )
    server_path: str | None = option(
        "Where the server sees the repository, such as /models.", default=None
    )
    idle_seconds: float = option(
        "Seconds for which a silent stream keeps its state.",
        default=60.0,
        low=0.001,
        flag="idle",
    )
    instances: int = option("Copies of the model that run at once.", default=1, low=1)
    batch_wait_ms: float | None = batch_wait_option()
    gpu: bool = option("Run ONNX Runtime on the GPU.", default=False)
    threads: int | None = threads_option()


@dataclass(frozen=True)
class TritonModel:
    """What was written.

    Attributes:
        path: the model's folder.
        library: operator or plugin library in it, as the server sees it; ``None`` without.
        command: line that starts a server on the repository.
        notes: what else the operator must know, a sentence each.
    """

    path: Path
    library: str | None
    command: str
    notes: tuple[str, ...]


def write_repository(bundle: Bundle, out: Path, options: TritonOptions) -> TritonModel:
    """Write ``out/<name>/`` with ``config.pbtxt``, the graph or engine, and its library.

    Other models in ``out`` stay; an older one of the same name is replaced as a whole.

    Raises:
        ExportError: the bundle's state is not one that Triton can keep, or an option is wrong.
        EngineMismatch: the engine is of another graph, flavour or plugin library, or damaged.
        PluginNotFound: ``native=True`` and there is no usable library.
    """
    graph = check_servable(bundle.manifest)
    _check_batching(bundle, options)
    if bundle.manifest.state and options.sequences is None:
        raise ExportError(
            "the bundle keeps state: give the number of streams at once with --sequences"
        )
    name = options.name or bundle.path.resolve().name
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"'{name}' is not a model name of letters, digits, '_', '.', '-'; give one"
        )
    artifact, content, library = _choose_artifact(bundle, graph, options)
    seen = options.server_path or str(out.resolve())
    library_path = None if library is None else f"{seen.rstrip('/')}/{name}/{library.name}"
    config = make_config(bundle.manifest, graph, name, options, library=library_path)
    path = _replace_model(out, name, {CONFIG: config.encode(), f"1/{artifact}": content}, library)
    command = f"tritonserver --model-repository={seen}"
    notes = _notes(bundle.manifest, options, native=library is not None)
    if options.engine is not None and library_path is not None:
        command += f" --backend-config=tensorrt,plugins={library_path}"
    return TritonModel(path, library_path, command, notes)


def check_servable(manifest: Manifest) -> str:
    """Name of the one graph of a recurrent or stateless bundle.

    Raises:
        ExportError: the bundle has state of another kind, several graphs, a state that does not
            begin at zero, or state names that Triton would pair wrongly.
    """
    family = manifest.model.get("family", "this model")
    for kind, reason in REASONS.items():
        if any(spec.kind == kind for spec in manifest.state):
            raise ExportError(
                f"{family} has {kind} state, which Triton cannot keep: {reason}. Serve it with "
                "streamseg itself, or export TV3S or SegFormer"
            )
    if len(manifest.graphs) != 1:
        raise ExportError(
            f"{family} has {len(manifest.graphs)} graphs ({', '.join(manifest.graphs)}), a Triton "
            "model is one; export TV3S or SegFormer"
        )
    for spec in manifest.state:
        if spec.init != "zeros":
            raise ExportError(f"state '{spec.name}' begins as '{spec.init}', expected zeros")
    check_pairing(manifest.state)
    return next(iter(manifest.graphs))


def _check_batching(bundle: Bundle, options: TritonOptions) -> None:
    batch = bundle.manifest.frame.batch
    if batch == 1 and options.batch_wait_ms is not None:
        raise ExportError(
            f"{bundle.path} serves one stream a step, so that nothing waits: leave out "
            "--batch-wait-ms, or export the bundle with --batch"
        )
    if batch > 1 and options.engine is not None:
        raise ExportError(
            f"a TensorRT engine of {bundle.path} runs exactly {batch} streams a step, and Triton "
            "hands over as many as are ready. Leave out --engine and use --gpu, or serve the "
            "engine of the bundle of one stream"
        )


def check_pairing(table: Sequence[StateSpec]) -> None:
    """Raise ExportError unless the n-th input name in sorted order belongs to the n-th output name.

    Triton finds the input of a state output by its place in sorted order, not by the configuration
    (triton-inference-server/server issue 8586); names of which one begins with another are swapped.
    """
    inputs = sorted(spec.inputs()[0] for spec in table)
    outputs = sorted(spec.output for spec in table)
    for entry, exit_ in zip(inputs, outputs, strict=True):
        if entry.removesuffix(".in") != exit_.removesuffix(".out"):
            raise ExportError(
                f"Triton would feed state output '{exit_}' to input '{entry}': it pairs states by "
                "the sorted order of their names. Rename the state tensors so that both orders "
                "agree"
            )


def make_config(
    manifest: Manifest,
    graph: str,
    name: str,
    options: TritonOptions,
    *,
    library: str | None = None,
) -> str:
    """Text of ``config.pbtxt``.

    The ONNX Runtime backend takes a batch dimension only where the graph leaves it open: that of a
    bundle for N streams a step, where shapes are written without it. For one stream
    ``max_batch_size`` is 0 and shapes are the graph's own, the leading 1 included.
    """
    found = {name: output_shape(name, manifest) for name in manifest.graphs[graph].outputs}
    outputs = [
        _tensor(name, _dims(manifest, shape), dtype) for name, (shape, dtype) in found.items()
    ]
    batch = manifest.frame.batch
    config: dict[str, Any] = {
        "name": name,
        "backend": "onnxruntime" if options.engine is None else "tensorrt",
        "max_batch_size": batch if batch > 1 else 0,
        "input": [_tensor("frame", _dims(manifest, manifest.frame.shape), "uint8")],
        "output": outputs,
    }
    if manifest.state:
        config["sequence_batching"] = _sequence_batching(manifest, options)
    elif batch > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": _wait(options)}
    kind = "KIND_GPU" if options.gpu or options.engine is not None else "KIND_CPU"
    config["instance_group"] = [{"count": options.instances, "kind": _Symbol(kind)}]
    if options.engine is None:
        if library is not None:
            config["model_operations"] = {"op_library_filename": [library]}
        if options.threads is not None:
            threads = {"string_value": str(options.threads)}
            config["parameters"] = [{"key": "intra_op_thread_count", "value": threads}]
    if not manifest.state:
        config["model_warmup"] = [_warm_up(manifest)]
    return "\n".join(_format_fields(config, 0)) + "\n"


def _sequence_batching(manifest: Manifest, options: TritonOptions) -> dict[str, Any]:
    assert options.sequences is not None
    # Triton counts candidates per instance.
    candidates = -(-options.sequences // options.instances)
    states = []
    for spec in sorted(manifest.state, key=lambda spec: spec.output):
        shape = {"data_type": _data_type(spec.dtype), "dims": _dims(manifest, spec.shape)}
        initial = {**shape, "zero_data": True, "name": f"{spec.name}.zeros"}
        names = {"input_name": spec.inputs()[0], "output_name": spec.output}
        states.append({**names, **shape, "initial_state": [initial]})
    # The oldest strategy puts at most one frame of a sequence into a batch, each with the state of
    # its sequence; with the direct one a sequence would hold a place that its silence leaves empty.
    oldest = {"max_candidate_sequences": candidates}
    if manifest.frame.batch > 1:
        oldest["max_queue_delay_microseconds"] = _wait(options)
    return {
        "max_sequence_idle_microseconds": round(options.idle_seconds * 1e6),
        "oldest": oldest,
        "state": states,
    }


def _wait(options: TritonOptions) -> int:
    """Microseconds that a request waits for others."""
    return round((WAIT_MS if options.batch_wait_ms is None else options.batch_wait_ms) * 1e3)


def _dims(manifest: Manifest, shape: Sequence[int]) -> list[int]:
    """A tensor's shape as a configuration has it: without the axis that Triton batches along."""
    return list(shape if manifest.frame.batch == 1 else shape[1:])


def _warm_up(manifest: Manifest) -> dict[str, Any]:
    # A warm-up request has no sequence, so with state it would fail, and the model's loading too.
    dims = _dims(manifest, manifest.frame.shape)
    frame = {"data_type": _data_type("uint8"), "dims": dims}
    inputs = [{"key": "frame", "value": {**frame, "zero_data": True}}]
    return {"name": "black frame", "batch_size": 1, "inputs": inputs}


def _tensor(name: str, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    return {"name": name, "data_type": _data_type(dtype), "dims": list(shape)}


class _Symbol(str):
    """An enumeration's value, written without quotes."""


def _data_type(dtype: str) -> _Symbol:
    return _Symbol(DATA_TYPES[dtype])


def _format_fields(fields: Mapping[str, Any], depth: int) -> list[str]:
    """Lines of protobuf text; a list of messages repeats its field."""
    pad, lines = "  " * depth, []
    for key, value in fields.items():
        entries = value if isinstance(value, list) and isinstance(value[0], Mapping) else [value]
        for entry in entries:
            if isinstance(entry, Mapping):
                lines += [f"{pad}{key} {{", *_format_fields(entry, depth + 1), f"{pad}}}"]
            elif isinstance(entry, list):
                lines.append(f"{pad}{key}: [ {', '.join(map(_format_scalar, entry))} ]")
            else:
                lines.append(f"{pad}{key}: {_format_scalar(entry)}")
    return lines


def _format_scalar(value: Any) -> str:
    if isinstance(value, (_Symbol, int)) and not isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _choose_artifact(
    bundle: Bundle, graph: str, options: TritonOptions
) -> tuple[str, bytes, Path | None]:
    """File name and content of the model, and the library that it needs."""
    if options.engine is None:
        library = _find_operators(options)
        return "model.onnx", _served_graph(bundle, graph), library
    record = read_record(options.engine)
    if record.graph_sha256 != digest(bundle.graphs[graph]):
        raise EngineMismatch(
            f"{options.engine} was built from a graph with {record.graph_sha256[:19]}..., the "
            f"bundle's has {digest(bundle.graphs[graph])[:19]}.... Run: streamseg build "
            f"{bundle.path}"
        )
    if record.flavour != "tensorrt":
        raise EngineMismatch(
            f"{options.engine} is of {record.flavour}; Triton's TensorRT backend opens engines of "
            f"tensorrt only. Run: streamseg build {bundle.path} --flavour tensorrt"
        )
    content = options.engine.read_bytes()
    if digest(content) != record.engine_sha256:
        raise EngineMismatch(
            f"{options.engine} was cut short or changed since its build. Run: streamseg build "
            f"{bundle.path}"
        )
    if not record.plugins_sha256:
        return "model.plan", content, None
    library = find_tensorrt_library(options.library)
    found = hashlib.sha256(library.read_bytes()).hexdigest()
    if found != record.plugins_sha256:
        raise EngineMismatch(
            f"{options.engine} was built with plugin library {record.plugins_sha256[:12]}..., "
            f"{library} is {found[:12]}.... Run: streamseg build {bundle.path}"
        )
    return "model.plan", content, library


def _served_graph(bundle: Bundle, graph: str) -> bytes:
    """The graph as Triton runs it: open for as many streams as are ready, where it batches."""
    content, count = bundle.graphs[graph], bundle.manifest.frame.batch
    if count == 1:
        return content
    # Bundles of one stream are served as they are, without the packages of the extra [export].
    from streamseg.export.open_batch import open_graph

    return open_graph(content, count)


def _find_operators(options: TritonOptions) -> Path | None:
    if options.native is False:
        return None
    find = find_ort_cuda_library if options.gpu else find_library
    try:
        return find(options.library)
    except PluginNotFound:
        if options.native or options.library is not None:
            raise
        return None


def _notes(manifest: Manifest, options: TritonOptions, *, native: bool) -> tuple[str, ...]:
    notes = ["no complete Triton server has run such a repository yet; see docs/scale.md"]
    if options.engine is not None:
        record = read_record(options.engine)
        notes.append(
            f"the engine opens only in TensorRT {record.version} on {record.gpu or 'its GPU'}: "
            "take the Triton release with that TensorRT"
        )
    elif not native:
        notes.append("our operators are left out: the graph's own lowering runs, more slowly")
    if manifest.state:
        notes.append("warm up with a sequence of its own: samples/triton_client.py --warm-up")
    return tuple(notes)


def _replace_model(out: Path, name: str, files: Mapping[str, bytes], library: Path | None) -> Path:
    """Write a model's folder aside, then put it in place of an older one."""
    target = out / name
    if target.exists() and not (target / CONFIG).is_file():
        raise ExportError(f"{target} exists and is not a Triton model; choose another -o or --name")
    with whole_folder(target, ExportError) as draft:
        for file, content in files.items():
            (draft / file).parent.mkdir(exist_ok=True)
            (draft / file).write_bytes(content)
        for path in () if library is None else list_files(library):
            shutil.copyfile(path, draft / path.name)
    return target

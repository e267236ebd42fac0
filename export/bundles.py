"""Writing a bundle: trace, check against PyTorch, put in place as a whole."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from streamseg._version import __version__
from streamseg.errors import ExportError
from streamseg.export.contract import check_contract
from streamseg.export.fusion import FUSED_PARTS, LAYER_PRECISIONS, fuse_layers
from streamseg.export.graph import TracedGraph, trace_step
from streamseg.export.parity import ParityMeter, moving_pattern, noise
from streamseg.export.precision import PRECISIONS, half_graph, half_state
from streamseg.export.step import Size, StepModel
from streamseg.export.torch_replay import Replay, outline
from streamseg.runtime.bundle.bundle import (
    MANIFEST,
    digest,
    graphs_identity,
    new_bundle,
    read_bundle,
)
from streamseg.runtime.bundle.manifest import RESIZE_RULES, Manifest
from streamseg.runtime.bundle.state import StateSpec
from streamseg.runtime.stream import Stream, open_stream

logger = logging.getLogger(__name__)

PARITY_FRAMES = 4
# Far above rounding (about 1e-5) and far below what a lost state does (above 1).
PARITY_LIMIT = 5e-3
# Of float16, relative: rounding alone costs up to 6e-3, an overflow or a wrong cast far more.
HALF_PARITY_LIMIT = 2e-2
# Relative, of bundles whose temporal layers and attention are fused with rounded products.
LAYER_PARITY_LIMITS = {"bf16": 2e-2, "int8-dynamic": 1e-1}
# Ties aside, labels are equal; a graph that no state shows would be caught here.
AGREEMENT_LIMIT = 0.95


@dataclass(frozen=True)
class ExportReport:
    """What an export produced: for people, and for the command line to print."""

    path: Path
    nodes: int
    bytes: int
    state_bytes: int
    parity: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: float


def export_bundle(
    model: StepModel,
    path: str | os.PathLike[str],
    *,
    size: Size,
    logits: bool = False,
    resize: str = "stretch",
    precision: str = "fp32",
    phase: Callable[[str], None] = logger.debug,
) -> ExportReport:
    """Write a bundle for frames of ``size``.

    Args:
        model: any ``StepModel``; checked by ``check_contract``.
        path: folder to write; an older bundle there is replaced, anything else refused.
        size: (H, W) that the graph runs at.
        logits: also output float32 logits ``[1, K, H, W]``.
        resize: how the runtime fits frames, ``stretch`` or ``letterbox``.
        precision: ``fp32`` or ``fp16``, baked into the graphs; ``bf16`` or ``int8-dynamic`` have
            the temporal layers and attention as one operator each, with products of that kind on
            the CPU.
        phase: called with the name of each phase as it begins.
    Raises:
        ExportError: the size is not possible, the exporter failed, or the bundle's outputs differ
            from PyTorch's.
        BundleError: ``path`` cannot be written.
    """
    started = time.perf_counter()
    if resize not in RESIZE_RULES:
        raise ExportError(f"resize is '{resize}', expected one of {', '.join(RESIZE_RULES)}")
    known = (*PRECISIONS, *LAYER_PRECISIONS)
    if precision not in known:
        raise ExportError(f"precision is '{precision}', expected one of {', '.join(known)}")
    warnings = tuple(model.check_size(size))
    for warning in warnings:
        logger.warning("%s", warning)
    phase("checking the model")
    check_contract(model, size)
    with new_bundle(path) as folder:
        traced: dict[str, TracedGraph] = {}
        contents: dict[str, bytes] = {}
        full: dict[str, bytes] = {}
        for name in model.graphs(size):
            phase(f"tracing the graph '{name}'")
            kind = LAYER_PRECISIONS.get(precision, "")
            traced[name] = trace_step(model, size, graph=name, logits=logits, attention=kind)
            attended = traced[name].fused
            if attended is not None:
                full[name] = traced[name].model.SerializeToString(deterministic=True)
                traced[name] = replace(traced[name], model=fuse_layers(attended, kind))
            if precision == "fp16":
                full[name] = traced[name].model.SerializeToString(deterministic=True)
                traced[name] = _halve(traced[name], model.state_spec(size))
            contents[f"{name}.onnx"] = traced[name].model.SerializeToString(deterministic=True)
            (folder / f"{name}.onnx").write_bytes(contents[f"{name}.onnx"])
        manifest = _describe(model, traced, contents, size=size, resize=resize)
        if precision == "fp16":
            manifest = replace(
                manifest,
                state=half_state(manifest.state),
                precision={"layers": "float16", "rest": "float32"},
            )
        if precision in LAYER_PRECISIONS:
            manifest = replace(manifest, precision=_describe_fused(traced.values(), precision))
        _write_manifest(folder, manifest)
        phase("comparing the bundle with PyTorch")
        parity = measure_parity(model, folder, size=size)
        if full:
            parity["parent"] = graphs_identity(full)
        _write_manifest(folder, replace(manifest, parity=parity))
    return ExportReport(
        path=Path(path),
        nodes=sum(graph.nodes for graph in traced.values()),
        bytes=sum(len(content) for content in contents.values()),
        state_bytes=sum(spec.nbytes for spec in manifest.state),
        parity=parity,
        warnings=warnings,
        seconds=time.perf_counter() - started,
    )


def _describe_fused(graphs: Iterable[TracedGraph], precision: str) -> dict[str, str]:
    """The manifest's precision; ``ExportError`` where nothing was fused."""
    kinds = {node.op_type for graph in graphs for node in graph.model.graph.node}
    parts = {part: precision for part, entry in FUSED_PARTS.items() if entry.name in kinds}
    if not parts:
        raise ExportError(
            "the network has no temporal layers, and no attention without a mask or bias, to fuse; "
            f"export it without --precision {precision}"
        )
    return {"layers": "float32", "rest": "float32", **parts}


def _halve(traced: TracedGraph, table: tuple[StateSpec, ...]) -> TracedGraph:
    return replace(traced, model=half_graph(traced.model, half_state(table)))


def _describe(
    model: StepModel,
    traced: Mapping[str, TracedGraph],
    contents: Mapping[str, bytes],
    *,
    size: Size,
    resize: str,
) -> Manifest:
    plain = outline(model, size)
    origin = model.origin
    return replace(
        plain,
        model={**plain.model, "nodes": {name: graph.nodes for name, graph in traced.items()}},
        frame=replace(plain.frame, resize=resize),
        graphs={
            name: replace(graph, outputs=traced[name].outputs)
            for name, graph in plain.graphs.items()
        },
        files={name: digest(content) for name, content in contents.items()},
        weights={
            "source": origin.source,
            "license": origin.license,
            "sha256": origin.sha256,
            "ignored": list(origin.ignored),
            "training_size": origin.training_size,
            "layout": origin.layout,
            "outside": list(origin.outside),
        },
        made_by={
            "streamseg": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "python": platform.python_version(),
        },
    )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def measure_parity(
    model: StepModel, bundle: str | os.PathLike[str], *, size: Size, frames: int | None = None
) -> dict[str, Any]:
    """Run a clip through the bundle and through PyTorch, both with state, and compare.

    The clip reaches every row of the schedule; given states hold seeded noise.

    Where temporal layers or attention are fused, the graph is compared by its lowering, which is
    float32 throughout, and then once more as it runs here; those figures are returned.

    Returns:
        For the manifest: frames, what it was compared with, the largest absolute and relative
        (Euclidean) differences of state and (where the bundle has them) logits, the limit that
        they kept, and the share of equal labels.
    Raises:
        ExportError: a difference above ``PARITY_LIMIT`` (float16: ``HALF_PARITY_LIMIT``, fused
            layers: ``LAYER_PARITY_LIMITS``, relative), or labels that agree too little.
    """
    manifest = read_bundle(bundle).manifest
    if frames is None:
        frames = max(PARITY_FRAMES, *(row.start + 1 for row in manifest.schedule))
    clip = moving_pattern(size, frames)
    given = {
        spec.name: noise(spec.shape, spec.dtype) for spec in manifest.state if spec.kind == "given"
    }

    def measure(native: bool | None) -> dict[str, Any]:
        with open_stream(bundle, backend="onnxruntime", native=native) as stream, torch.no_grad():
            for name, content in given.items():
                stream.give(name, content)
            replay = Replay(
                model, size, given={name: torch.from_numpy(array) for name, array in given.items()}
            )
            return _compare(replay, stream, clip)

    found = measure(native=False)
    half = manifest.precision_name == "fp16"
    result = _judge(found, "relative" if half else "max_abs", HALF_PARITY_LIMIT if half else None)
    fused = manifest.fused_precision
    if fused:
        result = _judge(measure(native=None), "relative", LAYER_PARITY_LIMITS[fused])
    return result


def _judge(found: dict[str, Any], measure: str, limit: float | None) -> dict[str, Any]:
    """The figures with their limit; ``ExportError`` where they exceed it."""
    rounded = limit is not None
    limit = PARITY_LIMIT if limit is None else limit
    worst = max(found[f"state_{measure}"], found[f"logits_{measure}"] or 0.0)
    if not worst <= limit:
        raise ExportError(
            f"the exported graph differs from PyTorch by {worst:.2g} after {found['frames']} "
            f"frames, expected at most {limit:g}; nothing was written"
            + (". This model loses its accuracy in this precision: export fp32" if rounded else "")
        )
    if not found["labels_agreement"] >= AGREEMENT_LIMIT:
        raise ExportError(
            f"{found['labels_agreement']:.2%} of the exported graph's labels are PyTorch's, "
            f"expected at least {AGREEMENT_LIMIT:.0%}; nothing was written"
        )
    return {**found, "limit": limit, "limit_of": measure}


def _compare(replay: Replay, stream: Stream, clip: list[NDArray[np.uint8]]) -> dict[str, Any]:
    meter = ParityMeter()
    for image in clip:
        result = stream.step(image)
        logits = replay.logits(torch.from_numpy(image)[None])[0].numpy()
        meter.add(result.labels, logits.argmax(0))
        if result.logits is not None:
            meter.add_logits(result.logits, logits)
    theirs = {name: tensor.numpy() for name, tensor in replay.state().items()}
    return {
        "against": f"torch {torch.__version__} float32",
        "with": stream.execution,
        **meter.result(stream.snapshot().tensors, theirs),
    }

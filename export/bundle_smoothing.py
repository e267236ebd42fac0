"""A memory around a bundle that exists already, imported ONNX graphs among them.

The memory's own graph is joined to the step graph at its scores; nothing else of that is changed.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from streamseg.errors import ExportError
from streamseg.export.frame_graph import FrameGraph, Tap, prune, rename
from streamseg.export.graph import trace_module
from streamseg.export.learned_memory import LearnedMemory, describe_memory, load_memory
from streamseg.export.parity import ParityMeter, moving_pattern
from streamseg.export.smoothing import SmoothingConfig, smooth
from streamseg.export.step import upsample
from streamseg.runtime.bundle.bundle import MANIFEST, digest, new_bundle
from streamseg.runtime.bundle.manifest import GraphSpec, Manifest, ScheduleRow
from streamseg.runtime.bundle.state import StateSpec
from streamseg.runtime.stream import open_stream

STEP = "step.onnx"
MEMORY = "memory"
FRAMES = 6
LIMIT = 5e-3
AGREEMENT_LIMIT = 0.95
_PREFIX = f"{MEMORY}/"


class MemoryPart(nn.Module, ABC):
    """A memory alone: ``(frame, *taps, *state)`` to ``(labels [, logits], *state)``.

    Attributes:
        taps: what it reads of the bundle's graph.
        state: its state table.
    """

    def __init__(self, taps: Sequence[Tap], state: Sequence[StateSpec], *, logits: bool) -> None:
        super().__init__()
        self.taps, self.state, self.logits = tuple(taps), tuple(state), logits

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """For the manifest."""

    @abstractmethod
    def mix(self, frame: Tensor, taps: Sequence[Tensor], state: Sequence[Tensor]) -> list[Tensor]:
        """Scores ``[1, K, h, w]``, then the next state."""

    def forward(self, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Labels uint8 ``[1, H, W]``, logits ``[1, K, H, W]``, then the next state."""
        size, count = (frame.shape[1], frame.shape[2]), len(self.taps)
        mixed, *new = self.mix(frame, inputs[:count], inputs[count:])
        labels = torch.ops.streamseg.upsample_argmax(mixed, *size)
        return (labels, *((upsample(mixed, size),) if self.logits else ()), *new)


class SmoothingPart(MemoryPart):
    """Scores smoothed over time; see ``smooth``."""

    def __init__(self, frames: FrameGraph, config: SmoothingConfig, *, logits: bool) -> None:
        shape = frames.scores.shape
        spec = StateSpec(MEMORY, (1, shape[1] + 4, *shape[2:]))
        super().__init__((frames.scores,), (spec,), logits=logits)
        self.config = config

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self.config)

    def mix(self, frame: Tensor, taps: Sequence[Tensor], state: Sequence[Tensor]) -> list[Tensor]:
        """See ``smooth``."""
        return list(smooth(taps[0], frame, state[0], self.config))


class LearnedPart(MemoryPart):
    """Temporal blocks over the segmenter's features."""

    def __init__(self, frames: FrameGraph, weights: Path, *, logits: bool) -> None:
        memory, trained_for = load_memory(weights)
        if trained_for != frames.bundle.identity:
            raise ExportError(
                f"{weights} was trained for another bundle ({trained_for[:12]}, this is "
                f"{frames.bundle.identity[:12]}): give that one, or train a memory for this one"
            )
        features = frames.features
        state = memory.state_spec(features.shape)
        super().__init__((frames.scores, features), state, logits=logits)
        self.memory: LearnedMemory = memory
        self._segmenter = trained_for

    def describe(self) -> dict[str, Any]:
        """Sizes, and which bundle it is for."""
        return describe_memory(self.memory, self._segmenter)

    def mix(self, frame: Tensor, taps: Sequence[Tensor], state: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """See ``LearnedMemory``."""
        mixed, new = self.memory([taps[0]], [taps[1]], state)
        return [*mixed, *new]


def remember_bundle(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    memory: SmoothingConfig | Path,
    *,
    logits: bool = False,
) -> Manifest:
    """Write a bundle that gives another one a memory.

    Args:
        source: a float32 bundle of one graph. A state of its own is left out: each of its frames is
            a first one.
        path: folder to write.
        memory: how scores are smoothed, such as one of ``smoothing.PRESETS``, or the weights of a
            memory that ``streamseg train --memory-for`` trained for ``source``.
        logits: also output logits.
    Returns:
        The new manifest.
    Raises:
        ExportError: several graphs, another precision, labels that no scores are behind, a memory
            for another bundle, or a result that differs from PyTorch's.
        CheckpointError: the weights cannot be read.
        BundleError: ``source`` is damaged, or ``path`` cannot be written.
    """
    frames = FrameGraph(source)
    part: MemoryPart
    if isinstance(memory, SmoothingConfig):
        part = SmoothingPart(frames, memory, logits=logits)
    else:
        part = LearnedPart(frames, memory, logits=logits)
    manifest = frames.bundle.manifest
    joined = _join(frames, part)
    content: bytes = joined.SerializeToString(deterministic=True)
    outputs = ("labels", "logits") if logits else ("labels",)
    names = tuple(spec.name for spec in part.state)
    written = replace(
        manifest,
        model={**manifest.model, MEMORY: part.describe()},
        state=part.state,
        graphs={"step": GraphSpec(STEP, names, names, outputs)},
        schedule=(ScheduleRow(0, "step"),),
        files={STEP: digest(content)},
        parity={},
    )
    with new_bundle(path) as folder:
        (folder / STEP).write_bytes(content)
        (folder / MANIFEST).write_text(written.to_json(), encoding="utf-8")
        parity = _compare(folder, frames, part)
        written = replace(written, parity={**parity, "parent": frames.bundle.identity})
        (folder / MANIFEST).write_text(written.to_json(), encoding="utf-8")
    return written


def _join(frames: FrameGraph, memory: MemoryPart) -> ModelProto:
    """One graph: the network's, pruned to what the memory reads, then the memory's."""
    states = [spec.name for spec in memory.state]
    arguments = (
        torch.zeros((1, *frames.size, 3), dtype=torch.uint8),
        *(torch.zeros(tap.shape) for tap in memory.taps),
        *(torch.zeros(spec.shape) for spec in memory.state),
    )
    taps = [f"tap{i}" for i in range(len(memory.taps))]
    outputs = ["labels", *(["logits"] if memory.logits else []), *(f"{n}.out" for n in states)]
    read = [f"{name}.in" for name in states]
    inputs = ["frame", *taps, *read]
    part = trace_module(memory, arguments, inputs, outputs)
    kept = {*inputs, *outputs}
    inner = {name for node in part.graph.node for name in (*node.input, *node.output)}
    inner |= {entry.name for entry in part.graph.initializer}
    names = {name: _PREFIX + name for name in inner if name and name not in kept}
    taken = {own: tap.name for own, tap in zip(taps, memory.taps, strict=True)}
    rename(part.graph, {**names, **taken})
    for node in part.graph.node:
        node.name = _PREFIX + node.name
    joined = ModelProto()
    joined.CopyFrom(frames.model)
    graph = joined.graph
    graph.node.extend(part.graph.node)
    graph.initializer.extend(part.graph.initializer)
    graph.input.extend(entry for entry in part.graph.input if entry.name in read)
    del graph.output[:], graph.value_info[:]
    graph.output.extend(part.graph.output)
    prune(graph)
    _join_functions(joined, part)
    graph.name = "step"
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _join_functions(joined: ModelProto, part: ModelProto) -> None:
    known = {(function.domain, function.name) for function in joined.functions}
    for function in part.functions:
        if (function.domain, function.name) not in known:
            joined.functions.append(function)
    versions = {entry.domain: entry.version for entry in joined.opset_import}
    for entry in part.opset_import:
        if versions.setdefault(entry.domain, entry.version) != entry.version:
            raise ExportError(
                f"the bundle's graph is of opset {versions[entry.domain]}, expected "
                f"{entry.version}; export it again"
            )
        if entry.domain not in {known.domain for known in joined.opset_import}:
            joined.opset_import.append(entry)
    used = {"", *(node.domain for node in joined.graph.node)}
    for function in [f for f in joined.functions if f.domain not in used]:
        joined.functions.remove(function)


def _compare(folder: Path, frames: FrameGraph, part: MemoryPart) -> dict[str, Any]:
    """The bundle against the old graph's tensors in ONNX Runtime and the memory in PyTorch."""
    read = frames.open_taps(part.taps)
    state = [torch.zeros(spec.shape) for spec in part.state]
    meter = ParityMeter()
    with open_stream(folder, native=False) as stream, torch.no_grad():
        for image in moving_pattern(frames.size, FRAMES):
            taps = [torch.from_numpy(entry) for entry in read(image)]
            labels, *state = part(torch.from_numpy(image)[None], *taps, *state)
            state = state[1:] if part.logits else state
            meter.add(stream.step(image).labels, labels[0].numpy())
        ours = stream.snapshot().tensors
    names = [spec.name for spec in part.state]
    theirs = {name: tensor.numpy() for name, tensor in zip(names, state, strict=True)}
    figures = meter.result(ours, theirs)
    worst = figures["state_max_abs"]
    if not worst <= LIMIT or not figures["labels_agreement"] >= AGREEMENT_LIMIT:
        raise ExportError(
            f"the joined graph differs from PyTorch by {worst:.2g} and "
            f"{figures['labels_agreement']:.2%} of its labels are PyTorch's, expected at most "
            f"{LIMIT:g} and at least {AGREEMENT_LIMIT:.0%}; nothing was written"
        )
    against = f"the graph's scores, with the memory in torch {torch.__version__} float32"
    return {"against": against, **figures, "limit": LIMIT, "limit_of": "max_abs"}

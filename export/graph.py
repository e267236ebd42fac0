"""One step as an ONNX graph: traced, optimised, with the lowering of its custom nodes attached."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.checker
import torch
from onnx import ModelProto, helper
from onnxscript import optimizer
from torch import Tensor, nn

from streamseg.errors import ExportError
from streamseg.export.attention_fusion import fuse_attention
from streamseg.export.attention_strips import cut_attention
from streamseg.export.exporter_failures import (
    explain,
    refuse_foreign_operators,
    refuse_missing_kernels,
)
from streamseg.export.lowering import (
    DOMAIN_VERSION,
    OPSET,
    attach_lowering,
    translation_table,
)
from streamseg.export.movements import drop_copies
from streamseg.export.step import Size, StepModel
from streamseg.plugins.table import DOMAIN

logger = logging.getLogger(__name__)

# ONNX Runtime 1.17 stops at IR 9; 1.23, the newest for Python 3.10 and so for JetPack 6, at 11.
IR_VERSION = 9
# Above any weight here, so that everything that depends on weights alone is folded.
FOLD_LIMIT = 1 << 30


class StepGraph(nn.Module):
    """One of a model's graphs as it is exported: labels (and logits) instead of scores."""

    def __init__(self, model: StepModel, graph: str, *, logits: bool) -> None:
        super().__init__()
        self.model = model
        self.graph = graph
        self.logits = logits

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """``(frame, *state)`` to ``(labels [, logits], *new_state)``."""
        return self.model.segment(self.graph, frame, *state, logits=self.logits)


@dataclass(frozen=True)
class TracedGraph:
    """An ONNX step graph and the names of its outputs other than state.

    ``fused`` has attention as operators, where that was requested.
    """

    model: ModelProto
    outputs: tuple[str, ...]
    fused: ModelProto | None = None

    @property
    def nodes(self) -> int:
        """Nodes of the graph, functions not counted."""
        return len(self.model.graph.node)


def trace_step(
    model: StepModel,
    size: Size,
    *,
    graph: str = "step",
    logits: bool = False,
    attention: str = "",
) -> TracedGraph:
    """Export one graph of ``model`` at frame size ``(H, W)``.

    Args:
        model: any ``StepModel``.
        size: of frames.
        graph: its name.
        logits: whether it puts out logits.
        attention: also make the graph with attention as operators whose products have this
            precision.

    Raises:
        ExportError: the exporter failed or produced another opset than requested.
    """
    table = {spec.name: spec for spec in model.state_spec(size)}
    plan = model.graphs(size)[graph]
    frame = torch.zeros((1, *size, 3), dtype=torch.uint8)
    outputs = ("labels", "logits") if logits else ("labels",)
    inputs, zeros = ["frame"], [frame]
    for name in plan.reads:
        for tensor in table[name].inputs(plan.ring_reads.get(name, 1)):
            inputs.append(tensor)
            zeros.append(torch.zeros(table[name].shape, dtype=getattr(torch, table[name].dtype)))
    written = [table[name].output for name in plan.writes]
    exported = _run_exporter(
        StepGraph(model.fold().eval(), graph, logits=logits),
        tuple(zeros),
        input_names=inputs,
        output_names=[*outputs, *written],
    )
    _name_outputs(exported, [*outputs, *written])
    prepared = _prepare(exported, graph)
    fused = None
    if attention:
        fused = ModelProto()
        fused.CopyFrom(prepared)
        fuse_attention(fused, attention)
        fused = _finish(fused)
    finished = _finish(prepared)
    _check_names(finished, inputs, [*outputs, *written])
    return TracedGraph(finished, outputs, fused)


def _run_exporter(module: nn.Module, arguments: tuple[Tensor, ...], **names: Any) -> ModelProto:
    with _quiet() as told, torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                optimize=False,
                custom_translation_table=translation_table(),
                **names,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"the ONNX exporter failed: {explain(error)}") from error
        assert program is not None
        optimizer.optimize_ir(
            program.model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT
        )
    logger.debug("%s", told.getvalue())
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Collect what the exporter prints, and drop its warnings and log lines about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [entry.level for entry in loggers]
    try:
        for entry in loggers:
            entry.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as told:
            warnings.simplefilter("ignore")
            yield told
    finally:
        for entry, level in zip(loggers, levels, strict=True):
            entry.setLevel(level)


def _prepare(model: ModelProto, name: str) -> ModelProto:
    """Set versions, strip the exporter's notes, rearrange."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET:
        raise ExportError(f"the exporter wrote opset {versions.get('')}, expected {OPSET}")
    model.ir_version = IR_VERSION
    # Stack traces with paths of this machine; IR 9 has no such fields.
    for entry in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.name = name
    _compute_constant_outputs(model)
    drop_copies(model)
    return model


def _finish(model: ModelProto) -> ModelProto:
    """Cut large attention, attach the lowering, check."""
    cut_attention(model)
    if any(node.domain == DOMAIN for node in model.graph.node):
        attach_lowering(model)
        if all(entry.domain != DOMAIN for entry in model.opset_import):
            model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    kept = {"", *(node.domain for node in model.graph.node)}
    for entry in [entry for entry in model.opset_import if entry.domain not in kept]:
        model.opset_import.remove(entry)
    onnx.checker.check_model(model, full_check=True)
    refuse_foreign_operators(model)
    refuse_missing_kernels(model)
    return model


def _name_outputs(model: ModelProto, names: list[str]) -> None:
    """Give outputs their names; where two are one tensor, the exporter gives others."""
    found = [entry.name for entry in model.graph.output]
    if found == names or len(found) != len(names):
        return
    inner = {name: f"result.{place}" for place, name in enumerate(found)}
    for node in model.graph.node:
        for fields in (node.input, node.output):
            for index, name in enumerate(fields):
                fields[index] = inner.get(name, name)
    for weight in model.graph.initializer:
        weight.name = inner.get(weight.name, weight.name)
    for entry, name in zip(model.graph.output, names, strict=True):
        model.graph.node.append(helper.make_node("Identity", [inner[entry.name]], [name]))
        entry.name = name


def _compute_constant_outputs(model: ModelProto) -> None:
    """Put a node in front of outputs that are constants, such as a flag that is always one.

    Passes that follow nodes, and engine builders, do not expect weights among the outputs.
    """
    outputs = {entry.name for entry in model.graph.output}
    for weight in model.graph.initializer:
        if weight.name in outputs:
            name, weight.name = weight.name, f"{weight.name}.constant"
            for node in model.graph.node:
                for index, read in enumerate(node.input):
                    if read == name:
                        node.input[index] = weight.name
            model.graph.node.append(helper.make_node("Identity", [weight.name], [name]))


def _check_names(model: ModelProto, inputs: list[str], outputs: list[str]) -> None:
    for what, found, expected in (
        ("inputs", [entry.name for entry in model.graph.input], inputs),
        ("outputs", [entry.name for entry in model.graph.output], outputs),
    ):
        if found != expected:
            raise ExportError(f"the exported graph's {what} are {found}, expected {expected}")


def trace_module(
    module: nn.Module, arguments: Sequence[Tensor], inputs: list[str], outputs: list[str]
) -> ModelProto:
    """Export any module of our ops, with the lowering attached; for benchmarks and tests."""
    exported = _run_exporter(
        module.eval(), tuple(arguments), input_names=inputs, output_names=outputs
    )
    return _finish(_prepare(exported, type(module).__name__))

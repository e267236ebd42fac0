"""The step contract, checked before a model is exported: shapes, order, purity.

The exporter's own errors come late and speak of graphs; these name the method to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from streamseg.errors import ExportError
from streamseg.export.parity import moving_pattern
from streamseg.export.step import GraphPlan, Size, StepModel
from streamseg.runtime.bundle.state import StateSpec


def check_contract(model: StepModel, size: Size) -> None:
    """Run every graph of ``model`` in PyTorch and check what it returns.

    Raises:
        ExportError: classes without names, a state of another shape or type than ``state_spec``
            gives, states in another order, inputs that are modified, or results that depend on
            something else than frame, state and weights.
    """
    table = {spec.name: spec for spec in model.state_spec(size)}
    if len(table) != len(model.state_spec(size)):
        raise ExportError(f"{_name(model)}.state_spec names a state twice: {', '.join(table)}")
    if model.num_classes < 1 or len(model.classes) != model.num_classes:
        raise ExportError(
            f"{_name(model)} has {len(model.classes)} entries in 'classes' and scores "
            f"{model.num_classes} classes; give StepModel.__init__ classes=[...], one name for each"
        )
    for graph, plan in model.graphs(size).items():
        _check_graph(model, graph, plan, table, size)


def _check_graph(
    model: StepModel, graph: str, plan: GraphPlan, table: dict[str, StateSpec], size: Size
) -> None:
    unknown = [name for name in (*plan.reads, *plan.writes) if name not in table]
    if unknown:
        known = ", ".join(table) or "nothing"
        raise ExportError(
            f"graph '{graph}' of {_name(model)} uses state '{unknown[0]}', state_spec has {known}"
        )
    frame = torch.from_numpy(moving_pattern(size, 1)[0])[None]
    inputs = [
        torch.zeros(table[name].shape, dtype=getattr(torch, table[name].dtype))
        for name in plan.reads
        for _ in table[name].inputs(plan.ring_reads.get(name, 1))
    ]
    model.eval()
    before = dict(_tensors(model))
    first = _run(model, graph, frame, inputs)
    _check_scores(model, graph, first)
    _check_states(model, graph, first[1:], [table[name] for name in plan.writes])
    if any(bool(tensor.any()) for tensor in inputs):
        raise ExportError(
            f"graph '{graph}' of {_name(model)} modifies a state that it reads; return a new "
            "tensor, and avoid methods that end in _ and assignments to slices"
        )
    second = _run(model, graph, frame, inputs)
    if any(not _equal(a, b) for a, b in zip(first, second, strict=True)):
        changed = [name for name, value in _tensors(model) if _changed(before.get(name), value)]
        where = f" It changes {', '.join(changed)}." if changed else ""
        raise ExportError(
            f"graph '{graph}' of {_name(model)} gives another result when it is called again with "
            f"the same frame and state: a module keeps something or draws random numbers.{where} "
            "Memory belongs into state_spec: take it as an argument and return its next value"
        )


def _run(
    model: StepModel, graph: str, frame: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    try:
        with torch.no_grad():
            results = model.run_graph(graph, frame, *inputs)
    except ExportError:
        raise
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        raise ExportError(
            f"graph '{graph}' of {_name(model)} failed on a frame {list(frame.shape)} with "
            f"{len(inputs)} state tensors: {type(error).__name__}: {text}"
        ) from error
    if not isinstance(results, (tuple, list)) or not all(isinstance(r, Tensor) for r in results):
        raise ExportError(
            f"graph '{graph}' of {_name(model)} returns {type(results).__name__}, expected a tuple "
            "of tensors: (scores, *new_state)"
        )
    return tuple(results)


def _check_scores(model: StepModel, graph: str, results: Sequence[Tensor]) -> None:
    wanted = f"[1, {model.num_classes}, h, w] floating point"
    shape = list(results[0].shape) if results else []
    fits = len(shape) == 4 and shape[:2] == [1, model.num_classes]
    if not fits or not results[0].is_floating_point():
        got = f"{results[0].dtype} {shape}" if results else "nothing"
        raise ExportError(
            f"graph '{graph}' of {_name(model)} returns scores {got}, expected {wanted}; scores "
            "come first, the states after them"
        )


def _check_states(
    model: StepModel, graph: str, states: Sequence[Tensor], specs: Sequence[StateSpec]
) -> None:
    where = f"graph '{graph}' of {_name(model)}"
    if len(states) != len(specs):
        names = ", ".join(spec.name for spec in specs) or "none"
        raise ExportError(f"{where} returns {len(states)} states, expected {len(specs)}: {names}")
    for spec, state in zip(specs, states, strict=True):
        if _fits(state, spec):
            continue
        message = (
            f"{where} returns {_dtype(state)} {list(state.shape)} for state '{spec.name}', "
            f"expected {spec.dtype} {list(spec.shape)}"
        )
        others = [other.name for other in specs if other != spec and _fits(state, other)]
        if others:
            message += f", which would fit '{others[0]}': return states in state_spec's order"
        raise ExportError(message)


def _fits(state: Tensor, spec: StateSpec) -> bool:
    return tuple(state.shape) == tuple(spec.shape) and _dtype(state) == spec.dtype


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _name(model: StepModel) -> str:
    return type(model).__name__


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _tensors(model: StepModel) -> Iterator[tuple[str, Tensor]]:
    """Copies of all that a step may have changed: parameters, buffers, tensors in attributes."""
    for prefix, module in model.named_modules():
        place = f"{prefix}." if prefix else ""
        kept = {**module._parameters, **module._buffers, **vars(module)}
        for name, value in kept.items():
            if isinstance(value, Tensor):
                yield place + name, value.detach().clone()


def _changed(old: Tensor | None, new: Tensor) -> bool:
    return old is None or not _equal(old, new)

"""The operator table: Python's mirror against the header, and its checks."""

from __future__ import annotations

import pytest

from streamseg.errors import BackendError
from streamseg.plugins.table import CAUSAL_CONV, LIMITS, OPERATORS, Operand, Sizes
from tests.plugins.native_builds import build_probes


def describe() -> str:
    """The mirror in the form that the library of probes prints the header's table."""
    lines = [f"limit {axis} ({name}) {low} {high}" for axis, (name, low, high) in LIMITS.items()]
    for operator in OPERATORS.values():
        lines.append(f"operator {operator.name}")
        lines += [f"attribute {a.name} {a.low} {a.high}" for a in operator.attributes]
        lines += [_line("input", operand) for operand in operator.inputs]
        lines += [_line("output", operand) for operand in operator.outputs]
        lines += [f"index {name}" for name in operator.indices]
    return "\n".join(lines) + "\n"


def _line(kind: str, operand: Operand) -> str:
    return f"{kind} {operand.name} {operand.role} {' '.join(operand.axes)}"


def test_mirror_equals_the_header() -> None:
    assert describe() == build_probes().operators


def test_sizes_are_learned_in_order_and_compared() -> None:
    sizes = Sizes(CAUSAL_CONV, tokens=6, cells=2)
    sizes.take([(1, 6, 5), (5, 4), (5,), (1, 2, 5, 3)])
    assert (sizes["batch"], sizes["channels"], sizes["history"]) == (1, 5, 3)


def test_mismatch_names_input_shapes_and_axes() -> None:
    wanted = (
        r"state has shape \[1, 2, 5, 4\], expected \[1, 2, 5, 3\] "
        r"\(batch, cells, channels, taps - 1\)"
    )
    with pytest.raises(BackendError, match=wanted):
        Sizes(CAUSAL_CONV, tokens=6, cells=2).take([(1, 6, 5), (5, 4), (5,), (1, 2, 5, 4)])

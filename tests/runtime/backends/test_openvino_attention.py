"""Strips of attention are joined for OpenVINO where they differ in nothing but their queries."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from streamseg.runtime.backends.openvino import import_openvino
from streamseg.runtime.backends.openvino_attention import join_strips
from tests.conftest import NO_OPENVINO

pytestmark = NO_OPENVINO

STRIPS = """
    <ir_version: 9, opset_import: ["" : 20]>
    attention (float[1,2,24,8] q, float[1,2,8,12] k, float[1,2,8,12] other, float[1,2,12,8] v)
        => (float[1,2,24,8] y)
    <int64[2] sizes = {16, 8}, float scale = {0.25}, float[1,1,1,12] bias =
        {1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.}>
    {
      q0, q1 = Split <axis = 2> (q, sizes)
      p0 = MatMul (q0, k)
      p1 = MatMul (q1, k)
      s0 = Mul (p0, scale)
      s1 = Mul (p1, scale)
      e0 = Softmax <axis = -1> (s0)
      e1 = Softmax <axis = -1> (s1)
      r0 = MatMul (e0, v)
      r1 = MatMul (e1, v)
      y = Concat <axis = 2> (r0, r1)
    }"""


def read(text: str) -> Any:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return import_openvino().Core().read_model(io.BytesIO(model.SerializeToString()))


def kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def test_joined_strips_are_the_attention_of_all_queries() -> None:
    model = read(STRIPS)
    assert join_strips(model) == 1
    assert kinds(model).count("Softmax") == 1
    assert {"Concat", "VariadicSplit"}.isdisjoint(kinds(model))
    random = np.random.default_rng(0)
    q, k, v = (
        random.standard_normal(shape, dtype=np.float32)
        for shape in ((1, 2, 24, 8), (1, 2, 8, 12), (1, 2, 12, 8))
    )
    compiled = (
        import_openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    found = compiled({"q": q, "k": k, "v": v})[0]
    shares = np.exp((q @ k) * 0.25)
    np.testing.assert_allclose(found, shares / shares.sum(-1, keepdims=True) @ v, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("MatMul (q1, k)", "MatMul (q1, other)"),
        ("MatMul (q1, k)", "MatMul (q0, k)"),
        ("(r0, r1)", "(r1, r0)"),
        ("Mul (p1, scale)", "Add (p1, bias)"),
        ("Mul (p1, scale)", "Div (p1, scale)"),
        ("Softmax <axis = -1> (s1)", "Softmax <axis = -2> (s1)"),
        ("MatMul (e1, v)", "MatMul (e0, v)"),
    ],
)
def test_strips_that_differ_stay(old: str, new: str) -> None:
    assert STRIPS.count(old) == 1
    stays(STRIPS.replace("{16, 8}", "{12, 12}").replace(old, new))


def stays(text: str) -> None:
    model = read(text)
    before = kinds(model)
    assert join_strips(model) == 0
    assert kinds(model) == before


def test_strips_that_mix_queries_stay() -> None:
    """Shares over the queries of a strip are not shares over all queries."""
    stays(STRIPS.replace("axis = -1", "axis = -2"))


def test_strips_with_a_factor_for_each_query_stay() -> None:
    text = STRIPS.replace("{16, 8}", "{12, 12}")
    stays(text.replace("float scale = {0.25}", "float[12,1] scale = {" + "1., " * 11 + "2.}"))


def test_strips_that_are_read_elsewhere_stay() -> None:
    """A strip's own result keeps its rows."""
    for name, shape in (("r0", "1,2,16,8"), ("e0", "1,2,16,12"), ("p0", "1,2,16,12")):
        stays(STRIPS.replace("8] y)", f"8] y, float[{shape}] {name})"))

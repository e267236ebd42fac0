"""Attention in strips: PyTorch's and transformers' attention, whatever the shapes and biases."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from streamseg.export.attention_strips import cut_attention, find_attention
from streamseg.export.graph import trace_module
from streamseg.export.models.mit import MiTConfig
from streamseg.export.precision import half_graph
from streamseg.export.shaped_graph import ShapedGraph
from tests.export.mit_pair import encoder_pair

Array = NDArray[np.float32]
FLOAT = TensorProto.FLOAT


def attention(
    query: Array, key: Array, value: Array, added: list[Array], scale: float
) -> onnx.ModelProto:
    """Attention written out; keys are an input ``[..., width, keys]``."""
    arrays = {"q": query, "k": key.swapaxes(-1, -2), "v": value}
    constants = [numpy_helper.from_array(np.float32(scale), "scale")]
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["raw"], "scores"),
        helper.make_node("Mul", ["raw", "scale"], ["biased0"], "scaled"),
    ]
    for index, bias in enumerate(added):
        constants.append(numpy_helper.from_array(bias, f"bias{index}"))
        names = [f"bias{index}", f"biased{index}"]
        nodes.append(helper.make_node("Add", names, [f"biased{index + 1}"], f"add{index}"))
    nodes += [
        helper.make_node("Softmax", [f"biased{len(added)}"], ["weights"], "weights", axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["out"], "sum"),
    ]
    inputs = [
        helper.make_tensor_value_info(name, FLOAT, array.shape) for name, array in arrays.items()
    ]
    out = helper.make_tensor_value_info("out", FLOAT, (*query.shape[:-1], value.shape[-1]))
    graph = helper.make_graph(nodes, "attention", inputs, [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def noise(random: np.random.Generator, *shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


def run(model: onnx.ModelProto, *arrays: Array) -> Array:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    (result,) = session.run(None, dict(zip(names, arrays, strict=True)))
    found: Array = result
    return found


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("seed", range(60))
def test_generated_attention_in_strips_is_pytorchs(seed: int) -> None:
    random = np.random.default_rng(seed)
    leading = tuple(int(n) for n in random.integers(1, 6, int(random.integers(1, 3))))
    queries, keys, width, out = (int(n) for n in random.integers(2, 40, 4))
    scores = (*leading, queries, keys)
    added = []
    for _ in range(int(random.integers(3))):  # biases that broadcast along any axes
        kept = [extent if random.random() < 0.6 else 1 for extent in scores]
        added.append(noise(random, *kept[int(random.integers(len(kept))) :]))
    q, k = noise(random, *leading, queries, width), noise(random, *leading, keys, width)
    v, scale = noise(random, *leading, keys, out), float(random.uniform(0.1, 2))
    model = attention(q, k, v, added, scale)
    arrays = (q, np.ascontiguousarray(k.swapaxes(-1, -2)), v)
    whole = run(model, *arrays)
    (found,) = find_attention(ShapedGraph(model))
    limit = max(4, found.nbytes // int(random.integers(2, 8)) - 1)

    assert cut_attention(model, limit) == 1
    onnx.checker.check_model(model, full_check=True)
    strips = list(find_attention(ShapedGraph(model)))
    assert len(strips) > 1
    smallest = found.nbytes // found.scores[found.axis]
    assert all(strip.nbytes <= max(limit, smallest) for strip in strips)
    got = run(model, *arrays)
    bias = sum((torch.from_numpy(array).double() for array in added), torch.zeros(1).double())
    double = [torch.from_numpy(array).double() for array in (q, k, v)]
    wanted = F.scaled_dot_product_attention(
        double[0], double[1], double[2], attn_mask=bias.expand(scores), scale=scale
    )
    np.testing.assert_allclose(got, wanted.numpy(), atol=3e-5)
    np.testing.assert_allclose(got, whole, atol=3e-6)


def strip_sizes(shape: tuple[int, ...], limit: int) -> list[int]:
    array = np.zeros((*shape, 8), np.float32)
    model = attention(array, array, array, [], 1.0)
    cut_attention(model, limit)
    return [entry.scores[entry.axis] for entry in find_attention(ShapedGraph(model))]


def test_queries_are_cut_in_multiples_of_rows_and_windows_one_by_one() -> None:
    assert strip_sizes((1, 100), limit=100 * 4 * 40) == [32, 32, 32, 4]
    assert strip_sizes((64, 2, 9), limit=9 * 9 * 2 * 4 * 25) == [25, 25, 14]


def test_small_attention_stays_as_it_is() -> None:
    assert strip_sizes((2, 100), limit=2 * 100 * 100 * 4) == [100]
    assert strip_sizes((1, 1, 4096), limit=64 << 20) == [4096]


def test_weights_that_others_read_stay_as_they_are() -> None:
    array = np.zeros((2, 12, 12), np.float32)
    model = attention(array, array, array, [], 1.0)
    shown = helper.make_tensor_value_info("weights", FLOAT, (2, 12, 12))
    model.graph.output.append(shown)
    before = model.SerializeToString()
    assert cut_attention(model, 16) == 0
    assert model.SerializeToString() == before


def test_fused_attention_of_pytorch_is_cut_too() -> None:
    class Fused(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value)

    tensors = [torch.randn(1, 3, 50, 8) for _ in range(3)]
    model = trace_module(Fused(), tensors, ["q", "k", "v"], ["out"])
    assert cut_attention(model, 50 * 50 * 4) == 1
    assert kinds(model)["Softmax"] == 4  # 16 rows of three heads each, and the last two rows
    with torch.no_grad():
        wanted = Fused()(*tensors).numpy()
    np.testing.assert_allclose(run(model, *(t.numpy() for t in tensors)), wanted, atol=1e-6)


@pytest.mark.parametrize(("size", "limit"), [((64, 96), 1 << 12), ((72, 104), 1 << 10)])
def test_encoder_in_strips_is_transformers(
    size: tuple[int, int], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "streamseg.export.graph.cut_attention", functools.partial(cut_attention, limit=limit)
    )
    ours, theirs = encoder_pair(MiTConfig((8, 16, 40, 64), (1, 1, 1, 1), norm_eps=(1e-5, 1e-5)))
    image = torch.randn(1, 3, *size)
    model = trace_module(ours, [image], ["pixels"], ["map"])
    assert kinds(model)["Split"] > 0
    assert kinds(model)["Softmax"] > 6
    wanted = theirs(image).last_hidden_state.numpy()
    np.testing.assert_allclose(run(model, image.numpy()), wanted, atol=2e-5)
    half = half_graph(model, ())
    assert kinds(half)["Softmax"] == kinds(model)["Softmax"]
    np.testing.assert_allclose(run(half, image.numpy()), wanted, atol=2e-2)

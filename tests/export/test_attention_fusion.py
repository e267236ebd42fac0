"""Attention as one operator: what is recognised, what is not, and that both compute the same."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from torch import Tensor, nn

from streamseg.errors import ExportError, PluginNotFound
from streamseg.export.attention_fusion import fuse_attention
from streamseg.export.attention_strips import cut_attention
from streamseg.export.graph import trace_module, trace_step
from streamseg.export.graph_parts import split_graph
from streamseg.export.lowering import DOMAIN_VERSION, attach_lowering
from streamseg.export.models.mit import MiTConfig
from streamseg.export.tensorrt_graph import plugin_graph
from streamseg.plugins.loader import find_library
from streamseg.plugins.table import ATTENTION, DOMAIN
from tests.export.mit_pair import encoder_pair
from tests.export.tiny import FAMILIES, SIZE

Array = NDArray[np.float32]
# Norm of the error as a share of the norm of the result.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "int8": 4e-2}


class Attention(nn.Module):
    """Attention between linear layers; ``kind`` names what is unusual."""

    def __init__(self, heads: int, depth: int, kind: str = "") -> None:
        super().__init__()
        self.heads, self.depth, self.kind = heads, depth, kind
        width = heads * depth
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """``[batch, tokens, features]`` to ``[batch, heads, tokens, depth]``."""
        if self.kind == "interleaved heads":
            return x.unflatten(-1, (self.depth, self.heads)).permute(0, 3, 1, 2)
        return x.view(*x.shape[:2], self.heads, self.depth).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[batch, queries, features]``, ``[batch, keys, features]`` to one like x."""
        q, k, v = self.split(self.q(x)), self.split(self.k(context)), self.split(self.v(context))
        if self.kind == "one head for all":
            k = k[:, :1].expand(-1, self.heads, -1, -1)
        scores = q @ k.transpose(-1, -2)
        scale = 0.37 if self.kind == "other scale" else self.depth**-0.5
        scores = scores / self.depth**0.5 if self.kind == "quotient" else scores * scale
        if self.kind == "mask":
            scores = scores + torch.full(scores.shape[-2:], -1e4).triu(1)
        if self.kind == "bias":
            scores = scores + torch.linspace(0, 1, scores.shape[-1])
        if self.kind == "weight of keys":
            scores = scores * torch.linspace(0.1, 1, scores.shape[-1])
        shares = torch.softmax(scores, -2 if self.kind == "over queries" else -1)
        mixed = shares @ v
        if self.kind == "result by heads":
            return mixed
        joined = mixed.transpose(1, 2).flatten(2)
        if self.kind == "joined without turning":
            joined = mixed.reshape(x.shape)
        return self.out(joined)


def traced(
    module: Attention, batch: int, queries: int, keys: int
) -> tuple[ModelProto, list[Tensor]]:
    """Its graph, and its tensors in order."""
    torch.manual_seed(0)
    width = module.heads * module.depth
    arrays = [torch.randn(batch, queries, width), torch.randn(batch, keys, width)]
    return trace_module(module, arrays, ["x", "context"], ["y"]), arrays


def fused(model: ModelProto, precision: str) -> tuple[ModelProto, int]:
    made = ModelProto()
    made.CopyFrom(model)
    count = fuse_attention(made, precision)
    if count:
        made.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
        attach_lowering(made)
    onnx.checker.check_model(made, full_check=True)
    return made, count


def run(model: ModelProto, *tensors: Tensor, native: bool) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if native:
        try:
            options.register_custom_ops_library(str(find_library()))
        except PluginNotFound as reason:
            pytest.skip(str(reason))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    (result,) = session.run(None, feed)
    found: Array = result
    return found


def kinds(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def error(got: Array, want: Array) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("seed", range(4))
def test_generated_attention_becomes_one_node_without_movements(seed: int) -> None:
    random = np.random.default_rng(seed)
    batch, heads, queries, keys, depth = (
        int(n) for n in random.integers((1, 1, 1, 1, 2), (3, 5, 9, 40, 9))
    )
    module = Attention(heads, depth, str(random.choice(["", "quotient"])))
    model, arrays = traced(module, batch, queries, keys)
    with torch.no_grad():
        wanted = module(*arrays).numpy()
    for precision, tolerance in TOLERANCE.items():
        made, count = fused(model, precision)
        assert count == kinds(made)[ATTENTION.name] == 1
        assert kinds(made).keys().isdisjoint(("Softmax", "Transpose", "Reshape"))
        assert error(run(made, *arrays, native=False), wanted) <= 1e-5
        assert error(run(made, *arrays, native=True), wanted) <= tolerance


class Unusual(nn.Module):
    """Attention of every kind that the operator does not compute; axes are equally long, so shapes
    alone show nothing."""

    KINDS = (
        *("mask", "bias", "weight of keys", "other scale", "interleaved heads"),
        *("one head for all", "over queries", "result by heads", "joined without turning"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(Attention(2, 2, kind) for kind in self.KINDS)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """One result for every kind."""
        return tuple(module(x, context) for module in self.each)


def test_other_attention_stays_as_it_is() -> None:
    arrays = [torch.randn(2, 2, 4), torch.randn(2, 2, 4)]
    model = trace_module(Unusual(), arrays, ["x", "context"], list(Unusual.KINDS))
    assert kinds(model)["Softmax"] == len(Unusual.KINDS)
    before = model.SerializeToString()
    made, count = fused(model, "int8")
    assert count == 0
    assert made.SerializeToString() == before


def test_softmax_that_others_read_stays_as_it_is() -> None:
    model, _ = traced(Attention(2, 3), 1, 4, 5)
    shares = next(node.output[0] for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(helper.make_tensor_value_info(shares, 1, (1, 2, 4, 5)))
    assert fused(model, "int8")[1] == 0


def test_encoder_with_fused_attention_is_transformers() -> None:
    ours, theirs = encoder_pair(MiTConfig((8, 16, 40, 64), (1, 2, 1, 1), norm_eps=(1e-5, 1e-5)))
    image = torch.randn(1, 3, 72, 104)
    wanted = theirs(image).last_hidden_state.numpy()
    model = trace_module(ours, [image], ["pixels"], ["map"])
    assert kinds(model)["Softmax"] == 5
    for precision, tolerance in TOLERANCE.items():
        made, count = fused(model, precision)
        assert count == 5
        assert kinds(made)["Softmax"] == 0
        assert error(run(made, image, native=False), wanted) <= 1e-5
        assert error(run(made, image, native=True), wanted) <= tolerance


def test_large_attention_is_fused_whole_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "streamseg.export.graph.cut_attention", functools.partial(cut_attention, limit=1 << 12)
    )
    found = trace_step(FAMILIES["segformer"](), SIZE, attention="int8")
    assert found.fused is not None
    assert kinds(found.model)["Softmax"] > 4
    assert kinds(found.fused)["Softmax"] == kinds(found.fused)["Split"] == 0
    assert kinds(found.fused)[ATTENTION.name] == 4


def test_graphs_for_tensorrt_and_the_web_refuse_fused_attention() -> None:
    made, _ = fused(traced(Attention(2, 3), 1, 4, 5)[0], "int8")
    with pytest.raises(ExportError, match="has no TensorRT plugin"):
        plugin_graph(made)
    with pytest.raises(ExportError, match="the graph has fused operators"):
        split_graph(made)

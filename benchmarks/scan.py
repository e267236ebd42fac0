"""The windowed selective scan and one whole layer: native, lowering, eager PyTorch, and the floor.

python benchmarks/scan.py    # writes benchmarks/results/scan.{json,md}
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from frame import plain_torch, scan_materialised
from measuring import describe_machine, time_interleaved, write_results
from onnx import ModelProto
from torch import Tensor, nn

from streamseg.export import ops
from streamseg.export.graph import trace_module
from streamseg.export.models.mamba import BlocksConfig, TemporalLayer
from streamseg.plugins.loader import find_library
from streamseg.plugins.native import load
from tests.plugins.native_builds import build_probes

# TV3S at 512x1024: 80x140 tokens in 28 windows of 400, d_inner 512, 16 states.
MAP = (80, 140)
CONFIG = BlocksConfig(embed_dim=256, layers=1, d_inner=512, dt_rank=16)
GEOMETRY = CONFIG.geometry(0, MAP)
PLACE = (*MAP, *CONFIG.window, 0, 0)
STATES = GEOMETRY.tokens * CONFIG.d_inner * CONFIG.d_state
EXP, FMA, TOGETHER = 0, 1, 2  # kinds of Probes.floor
PEERS = {
    "native": "native op in ONNX Runtime",
    "lowering": "ONNX `Scan` lowering in ONNX Runtime",
    "lean": "PyTorch, lean per-token loop",
    "materialised": "PyTorch, per-token loop that materialises L x D x N",
    "native_1": "native op, one thread",
    "floor": "floor: the states' exponentials, then their FMA work, one thread",
    "floor_together": "floor: both in one loop, one thread",
    "layer_native": "whole layer, native ops in ONNX Runtime",
    "layer_lowering": "whole layer, lowering in ONNX Runtime",
    "layer_lean": "whole layer, lean eager PyTorch",
}
BARS = [
    ("scan: native vs ONNX Scan lowering", "lowering", "native", ">= 10"),
    ("scan: native vs per-token loop (materialising)", "materialised", "native", ">= 20"),
    ("scan: native vs lean per-token loop", "lean", "native", ""),
    ("scan: native (with softplus, skip, gate) vs exp + FMA", "native_1", "floor", "<= 1.3"),
    (
        "scan: native (with softplus, skip, gate) vs both in one loop",
        "native_1",
        "floor_together",
        "",
    ),
    ("layer: native vs lean eager PyTorch", "layer_lean", "layer_native", ">= 4"),
]


class ScanOnly(nn.Module):
    """The scan op alone, as a graph."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """The op's nine inputs to its two outputs."""
        return ops.windowed_selective_scan(*tensors, *PLACE)


class WholeLayer(nn.Module):
    """RMSNorm, mixer and residual of one temporal layer, as a graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = TemporalLayer(CONFIG)

    def forward(self, residual: Tensor, conv: Tensor, scan: Tensor) -> tuple[Tensor, ...]:
        """Tokens and state to tokens and state."""
        normed = self.layer.norm(residual)
        (hidden,), state = self.layer.mixer([normed], (conv, scan), GEOMETRY)
        return (residual + hidden, *state)


def scan_inputs() -> list[Tensor]:
    """Seeded inputs in the ranges of a trained layer."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    tokens, inner, states = GEOMETRY.tokens, CONFIG.d_inner, CONFIG.d_state
    decay = -torch.arange(1.0, states + 1).repeat(inner, 1)
    return [
        normal(1, tokens, inner), normal(1, tokens, inner), normal(inner) - 4, decay,
        normal(1, tokens, states), normal(1, tokens, states), torch.ones(inner),
        normal(1, tokens, inner), normal(1, GEOMETRY.cells, inner, states),
    ]  # fmt: skip


def runtime_peer(
    model: ModelProto, feeds: dict[str, np.ndarray[Any, Any]], *, native: bool, threads: int
) -> Callable[[], object]:
    """One run in ONNX Runtime, outputs bound so that nothing is allocated."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    if native:
        settings.register_custom_ops_library(str(find_library()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    binding = session.io_binding()
    wrap = onnxruntime.OrtValue.ortvalue_from_numpy
    kept = [*feeds.values()]
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, wrap(array))
    for entry in session.get_outputs():
        kept.append(np.zeros(entry.shape, np.float32))
        binding.bind_ortvalue_output(entry.name, wrap(kept[-1]))
    return lambda: (session.run_with_iobinding(binding), kept)


def torch_peer(call: Callable[..., Any], arguments: list[Tensor], scan: Any) -> Callable[[], Any]:
    """An eager call with our operators in plain PyTorch, the scan by ``scan``."""

    def run() -> Any:
        with plain_torch(scan):
            return call(*arguments)

    return run


def make_peers(threads: int) -> dict[str, Callable[[], object]]:
    """All peers over the same inputs."""
    inputs = scan_inputs()
    names = [f"input{i}" for i in range(len(inputs))]
    scan = trace_module(ScanOnly(), inputs, names, ["y", "next_state"])
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    layer = WholeLayer().eval()
    state = [torch.zeros(spec.shape) for spec in CONFIG.state_spec(MAP)]
    whole = [torch.randn(1, GEOMETRY.tokens, CONFIG.embed_dim), *state]
    layer_names = ["residual", "conv", "scan"]
    layer_graph = trace_module(layer, whole, layer_names, ["y", "conv_next", "scan_next"])
    layer_feeds = {name: tensor.numpy() for name, tensor in zip(layer_names, whole, strict=True)}
    lean = ops.windowed_selective_scan_reference
    only = ScanOnly()
    return {
        "native": runtime_peer(scan, feeds, native=True, threads=threads),
        "lowering": runtime_peer(scan, feeds, native=False, threads=threads),
        "lean": torch_peer(only, inputs, lean),
        "materialised": torch_peer(only, inputs, scan_materialised),
        "native_1": runtime_peer(scan, feeds, native=True, threads=1),
        "layer_native": runtime_peer(layer_graph, layer_feeds, native=True, threads=threads),
        "layer_lowering": runtime_peer(layer_graph, layer_feeds, native=False, threads=threads),
        "layer_lean": torch_peer(layer, whole, lean),
    }


def format_table(result: dict[str, Any]) -> str:
    """Times, then the ratios that the thresholds refer to."""
    machine, times = result["machine"], result["times"]
    lines = [
        f"One layer, {GEOMETRY.cells} windows x 400 tokens x {CONFIG.d_inner} channels x "
        f"{CONFIG.d_state} states; {machine['processor']}, {machine['threads']} threads unless "
        f"said, commit {machine['commit']}.",
        "",
        "| peer | median ms | p95 ms |",
        "|---|---|---|",
    ]
    for name, entry in times.items():
        lines.append(f"| {PEERS[name]} | {entry['median_ms']:.1f} | {entry['p95_ms']:.1f} |")
    lines += ["", "| ratio of medians | measured | bar |", "|---|---|---|"]
    for label, ratio, bar in result["ratios"]:
        lines.append(f"| {label} | {ratio:.2f} | {bar} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    native = load()
    level, probes = native.level, build_probes()
    peers = make_peers(arguments.threads)
    peers["floor"] = lambda: [probes.floor(level, STATES, kind=kind) for kind in (EXP, FMA)]
    peers["floor_together"] = lambda: probes.floor(level, STATES, kind=TOGETHER)
    times = time_interleaved(peers, rounds=arguments.rounds)
    medians = {name: entry["median_ms"] for name, entry in times.items()}
    result = {
        "machine": {**describe_machine(arguments.threads), "instructions": native.level},
        "times": times,
        "ratios": [(label, medians[a] / medians[b], bar) for label, a, b, bar in BARS],
    }
    write_results("scan", result, format_table(result))


if __name__ == "__main__":
    main()

"""One frame on the CPU: our bundles in each runtime, and their peers, in turn.

python benchmarks/frame.py    # writes benchmarks/results/frame.{json,md}

TV3S MiT-B1 at 512x1024, and SegFormer MiT-B1 at 480x864, which has no state and, in float32, none
of our operators. Our bundles run in processes of their own, as in bars.py. Peers that need a
package or a compiler that is not here are left out, with a line that says so: OpenVINO (pip install
openvino), NNCF (pip install nncf; no torch is installed with it) and, for torch.compile, a C++
compiler.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from bars import (
    FAMILY_SIZE,
    FLOAT_PATHS,
    LOWERING,
    ORT,
    PATHS,
    QUANTISED,
    SIZE,
    UNIT,
    Work,
    build_network,
    bundle_of,
    peak_name,
    peers_of,
    prepare,
    take_turns,
)
from measuring import describe_head, describe_machine, summarise, write_results
from peaks import share_of_peak
from torch import Tensor

import streamseg
from streamseg.export import ops, ops_reference
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.parity import moving_pattern
from streamseg.export.size_advice import cost_of
from streamseg.export.step import StepModel
from streamseg.export.windows import WindowGeometry, cell_order
from streamseg.plugins.loader import find_openvino_library
from streamseg.runtime.backends.openvino import release_of

WORKS = (
    Work("tv3s-b1", SIZE, (*PATHS, LOWERING)),
    Work("segformer/mit_b1", FAMILY_SIZE, (*FLOAT_PATHS, *QUANTISED)),
)
# OpenVINO's hint by the name of the peer.
NNCF = {"OpenVINO, float32, INT8 by NNCF": "f32", "OpenVINO, bfloat16, INT8 by NNCF": "bf16"}
COMPILED, EAGER = "torch.compile", "PyTorch eager"
LOOP, MATERIALISED = "PyTorch eager, per-token loop", "PyTorch eager, scan materialising L x D x N"
SLOW = (LOWERING, "OpenVINO, lowering, float32", COMPILED, EAGER, LOOP, MATERIALISED)
# Milliseconds of a step.
Step = Callable[[], float]


def build_model(encoder: str, *, embed_dim: int, window: int, classes: int = 19) -> TV3S:
    """A seeded network of the given size."""
    torch.manual_seed(0)
    blocks = BlocksConfig(
        embed_dim=embed_dim,
        d_inner=2 * embed_dim,
        dt_rank=-(-embed_dim // 16),
        window=(window, window),
        shift=(window // 2, window // 2),
    )
    return TV3S(TV3SConfig(ENCODER_PRESETS[encoder], blocks, classes))


def scan_materialised(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A: Tensor, B: Tensor, C: Tensor,  # noqa: N803
    skip: Tensor, z: Tensor, state: Tensor, geometry: WindowGeometry,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The scan as in Mamba's reference: decay and input for all tokens first."""
    cells = cell_order(geometry)
    order = torch.from_numpy(cells.order.copy())
    inverse = torch.from_numpy(cells.inverse.copy())
    delta = torch.nn.functional.softplus(dt + dt_bias)
    rows = [ops_reference._append_zero(tokens)[:, order] for tokens in (delta, delta * u, B, C)]
    steps, inputs, into, out = rows
    decay = torch.exp(steps[..., None] * A)
    added = inputs[..., None] * into[..., None, :]
    outputs = []
    for token in range(order.shape[0]):
        state = decay[:, token] * state + added[:, token]
        outputs.append((state * out[:, token, :, None, :]).sum(-1))
    scanned = torch.stack(outputs, dim=1).flatten(1, 2)[:, inverse]
    return (scanned + skip * u) * torch.nn.functional.silu(z), state


@contextmanager
def plain_torch(scan: Callable[..., Any]) -> Iterator[None]:
    """Run our operators in plain PyTorch, the scan by ``scan``, and keep no gradients."""

    def call_scan(*arguments: Any) -> Any:
        return scan(*arguments[:9], WindowGeometry(*arguments[9:]))

    def call_conv(*arguments: Any) -> Any:
        return ops.windowed_causal_conv_reference(*arguments[:4], WindowGeometry(*arguments[4:]))

    with (
        torch.no_grad(),
        mock.patch.object(ops, "windowed_selective_scan", call_scan),
        mock.patch.object(ops, "windowed_causal_conv", call_conv),
    ):
        yield


def torch_step(model: StepModel, call: Callable[..., Any], size: tuple[int, int]) -> Step:
    """Steps of ``call``, which is ``model`` or made from it, with carried state."""
    state = list(model.initial_state(size))
    image = torch.from_numpy(moving_pattern(size, 1)[0])[None]

    def step() -> float:
        nonlocal state
        started = time.perf_counter()
        with torch.no_grad():
            logits, *state = call(image, *state)
            logits.argmax(1)
        return (time.perf_counter() - started) * 1e3

    return step


def plain_step(model: StepModel, scan: Callable[..., Any], size: tuple[int, int]) -> Step:
    """Eager steps with the scan replaced by ``scan``."""
    step = torch_step(model, model, size)

    def run() -> float:
        with plain_torch(scan):
            return step()

    return run


def torch_peers(work: Work) -> dict[str, Step]:
    """PyTorch with our operators, compiled where there is a C++ compiler; and without them."""
    model = build_network(work.name)
    peers = {EAGER: torch_step(model, model, work.size)}
    compiled = torch_step(model, torch.compile(model), work.size)
    try:
        compiled()
    except RuntimeError as error:
        print(f"torch.compile does not work here; this peer is left out ({error})")
    else:
        peers[COMPILED] = compiled
    if isinstance(model, TV3S):
        peers[LOOP] = plain_step(model, ops.windowed_selective_scan_reference, work.size)
        peers[MATERIALISED] = plain_step(model, scan_materialised, work.size)
    return peers


def nncf_peers(work: Work, folder: Path, threads: int) -> dict[str, Step]:
    """The float32 bundle's graph with INT8 by NNCF, which sees one frame; none without NNCF."""
    try:
        nncf = importlib.import_module("nncf")
        openvino = importlib.import_module("openvino")
    except ImportError as error:
        print(f"INT8 by NNCF is left out ({error})")
        return {}
    core = openvino.Core()
    core.add_extension(str(find_openvino_library(release_of(openvino))))
    model = core.read_model(str(bundle_of(work, UNIT, folder) / "step.onnx"))
    feeds = {
        port.any_name: np.zeros(tuple(port.shape), port.get_element_type().to_dtype())
        for port in model.inputs
    }
    feeds["frame"] = moving_pattern(work.size, 1)[0][None]
    quantised = nncf.quantize(
        model, nncf.Dataset([feeds]), subset_size=1, model_type=nncf.ModelType.TRANSFORMER
    )
    config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    return {
        name: nncf_step(
            core.compile_model(quantised, "CPU", {**config, "INFERENCE_PRECISION_HINT": hint}),
            dict(feeds),
        )
        for name, hint in NNCF.items()
    }


def nncf_step(compiled: Any, feeds: dict[str, Any]) -> Step:
    """Steps of a compiled graph with carried state."""
    request = compiled.create_infer_request()

    def step() -> float:
        started = time.perf_counter()
        found = request.infer(feeds, share_inputs=True)
        for name in feeds:
            if name != "frame":
                feeds[name] = np.array(found[name.removesuffix(".in") + ".out"])
        return (time.perf_counter() - started) * 1e3

    return step


def measure_steps(peers: Mapping[str, Step], rounds: int, warm_up: int = 2) -> dict[str, Any]:
    """Figures of every peer's steps, without the first ones."""
    samples = take_turns(peers, warm_up + rounds)
    return {name: summarise(taken[warm_up:]) for name, taken in samples.items()}


def measure_work(work: Work, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Times of every peer of a network."""
    prepare(work, folder)
    with peers_of(work, folder, options.threads, None) as ours:
        peers = {name: peer.step for name, peer in ours.items()}
        peers |= nncf_peers(work, folder, options.threads) | torch_peers(work)
        slow = {name: step for name, step in peers.items() if name in SLOW}
        times = measure_steps(
            {name: peers[name] for name in peers if name not in slow}, options.rounds
        )
        times |= measure_steps(slow, options.slow_rounds, warm_up=1)
        peaks = {name: peak_name(name, peer.description) for name, peer in ours.items()}
    peaks |= dict.fromkeys(NNCF, "int8")
    return {
        "name": work.name,
        "size": work.size,
        "gmacs": cost_of(build_network(work.name), work.size).gmacs,
        "times": {
            name: {**entry, "peak": peaks.get(name, "fp32")} for name, entry in times.items()
        },
    }


def measure_own_share(bundle: Path, threads: int, rounds: int) -> float:
    """Percent of a frame that the runtime takes beside the graph."""
    shares = []
    with streamseg.open(bundle, threads=threads, **ORT) as stream:
        frame = moving_pattern(SIZE, 1)[0]
        for _ in range(rounds):
            started = time.perf_counter()
            graph = stream.step(frame).timings["step"]
            shares.append((time.perf_counter() - started - graph) / graph * 100)
    return median(shares)


def format_table(result: dict[str, Any]) -> str:
    """The result as Markdown tables, fastest first."""
    machine = result["machine"]
    lines = [f"One frame, with state where there is any; {describe_head(machine)}."]
    for work in result["works"]:
        height, width = work["size"]
        unit = work["times"][UNIT]["median_ms"]
        lines += [
            "",
            f"| {work['name']} {height}x{width} | rounds | median ms | p95 ms | times {UNIT} ",
        ]
        lines[-1] += "| share of peak |"
        lines += ["|---|---|---|---|---|---|"]
        for name, entry in sorted(work["times"].items(), key=lambda item: item[1]["median_ms"]):
            taken = entry["median_ms"]
            peak = machine["peak_gops"].get(entry["peak"])
            share = f"{share_of_peak(work['gmacs'], taken, peak):.0%}" if peak else ""
            lines.append(
                f"| {name} | {entry['rounds']} | {taken:.0f} | {entry['p95_ms']:.0f} | "
                f"{unit / taken:.2f} | {share} |"
            )
    lines += [
        "",
        "The peak is that of the type that most products run in. PyTorch runs in float32, with our "
        "operators unless the row names another scan.",
        "",
        f"The runtime's own share of a frame of {WORKS[0].name}: "
        f"{result['own_share_percent']:.2f} %.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slow-rounds", type=int, default=5, help="of lowerings and PyTorch")
    parser.add_argument("--bundles", type=Path, help="keep the bundles here and reuse them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"machine": describe_machine(options.threads)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.bundles or Path(scratch)
        result["works"] = [measure_work(work, folder, options) for work in WORKS]
        unit = bundle_of(WORKS[0], UNIT, folder)
        result["own_share_percent"] = measure_own_share(unit, options.threads, options.rounds)
    write_results("frame", result, format_table(result))


if __name__ == "__main__":
    main()

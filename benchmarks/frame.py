"""One TV3S MiT-B1 frame at 512x1024: our bundle in each runtime, and its peers.

python benchmarks/frame.py    # writes benchmarks/results/frame.{json,md}

Peers that need a package or a compiler that is not here are left out, with a line that says so:
OpenVINO (pip install openvino), NNCF (pip install nncf; no torch is installed with it) and, for
torch.compile, a C++ compiler.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from bars import PATHS, UNIT, Work, bundle_of, prepare
from measuring import describe_head, describe_machine, summarise, time_interleaved, write_results
from peaks import share_of_peak
from torch import Tensor

import streamseg
from streamseg import StepResult
from streamseg.errors import StreamsegError
from streamseg.export import ops, ops_reference
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.parity import moving_pattern
from streamseg.export.size_advice import cost_of
from streamseg.export.windows import WindowGeometry, cell_order
from streamseg.plugins.loader import find_openvino_library
from streamseg.runtime.backends.openvino import release_of

SIZE = (512, 1024)
PEERS = {
    "native": "ONNX Runtime, native operators",
    "lowering": "ONNX Runtime, lowering to standard operators",
    "openvino_native": "OpenVINO, native operators",
    "openvino_lowering": "OpenVINO, lowering to standard operators",
    "openvino_layers": "OpenVINO, native operators, int8 layers",
    "openvino_int8": "OpenVINO, native operators, int8 layers and `streamseg calibrate`",
    "openvino_nncf": "OpenVINO, native operators, INT8 by NNCF",
    "compiled": "torch.compile, native operators",
    "eager_native": "PyTorch eager, native operators",
    "eager": "PyTorch eager, lean per-token loop",
    "eager_materialised": "PyTorch eager, scan materialising L x D x N",
}
# Our bundles, as bars.py makes and opens them.
BUNDLES = {
    "native": UNIT,
    "lowering": UNIT,
    "openvino_native": "OpenVINO, float32",
    "openvino_lowering": "OpenVINO, lowering, float32",
    "openvino_layers": "OpenVINO, float32, int8 layers",
    "openvino_int8": "OpenVINO, float32, INT8 encoder, int8 layers",
}
WORK = Work("tv3s-b1", SIZE, tuple(dict.fromkeys(BUNDLES.values())))
INTEGERS = ("openvino_layers", "openvino_int8", "openvino_nncf")
Step = Callable[[], object]


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


def eager_peer(model: TV3S, frame: np.ndarray[Any, Any], scan: Any) -> Step:
    """One eager step with carried state, the scan replaced by ``scan``."""
    step = torch_peer(model, model, frame)

    def run() -> None:
        with plain_torch(scan):
            step()

    return run


def torch_peer(model: TV3S, call: Callable[..., Any], frame: np.ndarray[Any, Any]) -> Step:
    """One step of ``call``, which is ``model`` or made from it, with carried state."""
    state = list(model.initial_state(SIZE))
    image = torch.from_numpy(frame)[None]

    def step() -> None:
        nonlocal state
        with torch.no_grad():
            logits, *state = call(image, *state)
            logits.argmax(1)

    return step


def compiled_peer(model: TV3S, frame: np.ndarray[Any, Any]) -> Step | None:
    """The network by torch.compile, our operators as they are; ``None`` without a C++ compiler."""
    step = torch_peer(model, torch.compile(model), frame)
    try:
        step()
    except RuntimeError as error:
        print(f"torch.compile does not work here; this peer is left out ({error})")
        return None
    return step


def nncf_peer(bundle: Path, frame: np.ndarray[Any, Any], threads: int) -> Step | None:
    """The bundle's graph with INT8 by NNCF, which sees this frame; ``None`` if it is missing."""
    try:
        nncf = importlib.import_module("nncf")
        openvino = importlib.import_module("openvino")
    except ImportError as error:
        print(f"INT8 by NNCF is left out ({error})")
        return None
    core = openvino.Core()
    core.add_extension(str(find_openvino_library(release_of(openvino))))
    model = core.read_model(str(bundle / "step.onnx"))
    feeds = {
        port.any_name: np.zeros(tuple(port.shape), port.get_element_type().to_dtype())
        for port in model.inputs
    }
    feeds["frame"] = frame[None]
    quantised = nncf.quantize(
        model, nncf.Dataset([feeds]), subset_size=1, model_type=nncf.ModelType.TRANSFORMER
    )
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(quantised, "CPU", config).create_infer_request()

    def step() -> None:
        found = request.infer(feeds, share_inputs=True)
        for name in feeds:
            if name != "frame":
                feeds[name] = np.array(found[name.removesuffix(".in") + ".out"])

    return step


def bundle_peers(
    folder: Path, frame: np.ndarray[Any, Any], threads: int
) -> dict[str, Callable[[], StepResult]]:
    """Our bundles through the runtime, by ONNX Runtime and by OpenVINO if it is installed."""
    prepare(WORK, folder)
    peers: dict[str, Callable[[], StepResult]] = {}
    for name, path in BUNDLES.items():
        opening = PATHS[path][1]
        if name == "lowering":
            opening = {**opening, "native": False}
        try:
            stream = streamseg.open(bundle_of(WORK, path, folder), threads=threads, **opening)
        except StreamsegError as error:
            print(f"{PEERS[name]} is left out ({error})")
            continue
        peers[name] = partial(stream.step, frame)
    return peers


def measure_frame(folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    """All peers, interleaved; and the runtime's own share of the native frame."""
    model = build_model("mit_b1", embed_dim=256, window=20)
    frame = moving_pattern(SIZE, 1)[0]
    torch.set_num_threads(threads)
    ours = bundle_peers(folder, frame, threads)
    own: list[float] = []

    def step_native() -> None:
        started = time.perf_counter()
        graph = ours["native"]().timings["step"]
        own.append((time.perf_counter() - started - graph) / graph * 100)

    peers: dict[str, Step] = {**ours, "native": step_native}
    others = {
        "openvino_nncf": nncf_peer(bundle_of(WORK, UNIT, folder), frame, threads),
        "compiled": compiled_peer(model, frame),
    }
    peers.update({name: peer for name, peer in others.items() if peer is not None})
    peers["eager_native"] = torch_peer(model, model, frame)
    peers["eager"] = eager_peer(model, frame, ops.windowed_selective_scan_reference)
    peers["eager_materialised"] = eager_peer(model, frame, scan_materialised)
    times = time_interleaved(peers, rounds=rounds)
    return {
        "size": SIZE,
        "gmacs": cost_of(model, SIZE).gmacs,
        "times": times,
        "own_share_percent": summarise(own)["median_ms"],
    }


def format_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, fastest first."""
    machine, times = result["machine"], result["times"]
    native = times["native"]["median_ms"]
    lines = [
        f"TV3S MiT-B1, {SIZE[0]}x{SIZE[1]}, one frame with state; {describe_head(machine)}.",
        "",
        "| peer | median ms | p95 ms | times ONNX Runtime, native | share of float32 peak |",
        "|---|---|---|---|---|",
    ]
    for name, entry in sorted(times.items(), key=lambda item: item[1]["median_ms"]):
        median = entry["median_ms"]
        peak = None if name in INTEGERS else machine["peak_gops"].get("fp32")
        shown = f"{share_of_peak(result['gmacs'], median, peak):.0%}" if peak else ""
        lines.append(
            f"| {PEERS[name]} | {median:.0f} | {entry['p95_ms']:.0f} | {native / median:.2f} | "
            f"{shown} |"
        )
    lines += ["", f"The runtime's own share of a frame: {result['own_share_percent']:.2f} %."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bundles", type=Path, help="keep the bundles here and reuse them")
    arguments = parser.parse_args()
    machine = describe_machine(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.bundles or Path(scratch)
        result = measure_frame(folder, arguments.threads, arguments.rounds)
    result["machine"] = machine
    write_results("frame", result, format_table(result))


if __name__ == "__main__":
    main()

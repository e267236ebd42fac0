"""One TV3S MiT-B1 frame at 512x1024: bundle (native, lowering), eager PyTorch, OpenVINO.

python benchmarks/frame.py            # writes benchmarks/results/frame.{json,md}
python benchmarks/frame.py --memory   # adds 5,000 frames of the small model, resident memory
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from measuring import describe_machine, summarise, time_interleaved, write_results
from torch import Tensor

import streamseg
from streamseg.export import export_bundle, ops
from streamseg.export.lowering import lowered
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.parity import moving_pattern
from streamseg.export.windows import WindowGeometry, cell_order

SIZE = (512, 1024)
PEERS = {
    "native": "bundle, native operators",
    "lowering": "bundle, lowering to standard ops",
    "openvino": "OpenVINO, functions inlined",
    "eager": "PyTorch eager, lean per-token loop",
    "eager_materialised": "PyTorch eager, scan materialising L x D x N",
}


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
    rows = [ops._append_zero(tokens)[:, order] for tokens in (delta, delta * u, B, C)]
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


def eager_peer(model: TV3S, frame: np.ndarray[Any, Any], scan: Any) -> Callable[[], object]:
    """One eager step with carried state, the scan replaced by ``scan``."""
    state = list(model.initial_state(SIZE))
    image = torch.from_numpy(frame)[None]

    def step() -> None:
        nonlocal state
        with plain_torch(scan):
            logits, *state = model(image, *state)
            logits.argmax(1)

    return step


def openvino_peer(
    graph: Path, frame: np.ndarray[Any, Any], threads: int
) -> Callable[[], object] | None:
    """The lowered graph in OpenVINO, with state fed back; ``None`` if it is not installed."""
    try:
        import openvino
    except ImportError:
        print("openvino is not installed; this peer is left out (pip install openvino)")
        return None
    core = openvino.Core()
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(lowered(onnx.load(graph)).SerializeToString())
        file.flush()
        compiled = core.compile_model(
            file.name, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        )
    request = compiled.create_infer_request()
    feeds = {
        entry.any_name: np.zeros(entry.shape, np.float32)
        for entry in compiled.inputs
        if entry.any_name != "frame"
    }
    feeds["frame"] = frame[None]

    def step() -> None:
        found = request.infer(feeds, share_inputs=True)
        for name in feeds:
            if name != "frame":
                feeds[name] = np.array(found[name.removesuffix(".in") + ".out"])

    return step


def measure_frame(threads: int, rounds: int) -> dict[str, Any]:
    """All peers, interleaved; and the runtime's own share of the native frame."""
    model = build_model("mit_b1", embed_dim=256, window=20)
    frame = moving_pattern(SIZE, 1)[0]
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "street"
        export_bundle(model, bundle, size=SIZE)
        native = streamseg.open(bundle, native=True, threads=threads)
        lowering = streamseg.open(bundle, native=False, threads=threads)
        own: list[float] = []

        def step_native() -> None:
            started = time.perf_counter()
            graph = native.step(frame).timings["step"]
            own.append((time.perf_counter() - started - graph) / graph * 100)

        peers: dict[str, Callable[[], object]] = {
            "native": step_native,
            "lowering": lambda: lowering.step(frame),
            "eager": eager_peer(model, frame, ops.windowed_selective_scan_reference),
            "eager_materialised": eager_peer(model, frame, scan_materialised),
        }
        openvino = openvino_peer(bundle / "step.onnx", frame, threads)
        if openvino is not None:
            peers["openvino"] = openvino
        times = time_interleaved(peers, rounds=rounds)
    return {"size": SIZE, "times": times, "own_share_percent": summarise(own)["median_ms"]}


def format_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, fastest first."""
    machine, times = result["machine"], result["times"]
    native = times["native"]["median_ms"]
    lines = [
        f"TV3S MiT-B1, {SIZE[0]}x{SIZE[1]}, one frame with state; {machine['processor']}, "
        f"{machine['threads']} threads, commit {machine['commit']}.",
        "",
        "| peer | median ms | p95 ms | native is faster by |",
        "|---|---|---|---|",
    ]
    for name, entry in sorted(times.items(), key=lambda item: item[1]["median_ms"]):
        median = entry["median_ms"]
        lines.append(
            f"| {PEERS[name]} | {median:.0f} | {entry['p95_ms']:.0f} | {median / native:.2f}x |"
        )
    lines += ["", f"The runtime's own share of a frame: {result['own_share_percent']:.2f} %."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    result = {
        "machine": describe_machine(arguments.threads),
        **measure_frame(arguments.threads, arguments.rounds),
    }
    write_results("frame", result, format_table(result))


if __name__ == "__main__":
    main()

"""A TV3S frame in float16 against three peers; JSON, rewritten after each.

    python benchmarks/gpu/frame_peers.py --out out.json
    python benchmarks/gpu/frame_peers.py --out out.json --rehearse

The peers: the same network as its authors run it (mamba_ssm's kernel, fed by copies of windows,
eager), ``torch.compile(mode="max-autotune")`` with our operators, and ONNX Runtime with the
lowering instead of them. ``--rehearse`` runs a small model on the CPU, with the references instead
of mamba_ssm and the compiler.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from scan_peers import build_mamba
from torch import Tensor
from torch_timing import captured, time_calls
from whole_frame import build_model, make_state, to_half

import streamseg
from streamseg.export import ops
from streamseg.export.windows import WindowGeometry

ROOT = Path(__file__).resolve().parents[2]
Step = Callable[[], Any]


class WindowCopies:
    """The two operators of a layer by copies of windows; a shifted grid is a rolled map.

    States are not carried: the kernel does not support them, and that does not affect the time.
    """

    def __init__(self, mamba: Any) -> None:
        self.mamba = mamba

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, *place: int) -> Any:
        """``windowed_causal_conv``."""
        grid = WindowGeometry(*place)
        taps = weight.shape[1]
        cells = split(x, grid)
        mixed = F.conv1d(
            F.pad(cells, (taps - 1, 0)),
            weight[:, None].to(x.dtype),
            bias.to(x.dtype),
            groups=len(weight),
        )
        return join(F.silu(mixed), grid), state

    def scan(self, *arguments: Any) -> Any:
        """``windowed_selective_scan``."""
        u, dt, bias, A, B, C, skip, z, state = arguments[:9]  # noqa: N806
        grid = WindowGeometry(*arguments[9:])
        cells = [split(tensor, grid) for tensor in (u, dt, z)]
        maps = [split(tensor, grid).unsqueeze(1) for tensor in (B, C)]
        out = self.mamba.fwd(cells[0], cells[1], A, *maps, skip, cells[2], bias, True)[-1]
        return join(out, grid), state


class ReferenceKernel:
    """mamba_ssm's call in plain PyTorch, for the rehearsal."""

    @staticmethod
    def fwd(*arguments: Any) -> tuple[Tensor]:
        """``[cells, D, L]`` to the same shape."""
        u, dt, A, B, C, skip, z, bias, _ = arguments  # noqa: N806
        step = F.softplus(dt + bias[:, None])
        state = torch.zeros(*u.shape[:2], A.shape[1])
        outputs = []
        for t in range(u.shape[2]):
            decay = torch.exp(step[:, :, t, None] * A)
            state = decay * state + (step * u)[:, :, t, None] * B[:, 0, None, :, t]
            outputs.append((state * C[:, 0, None, :, t]).sum(-1))
        out = torch.stack(outputs, dim=2) + skip[:, None] * u
        return ((out * F.silu(z)).to(u.dtype),)


def split(tokens: Tensor, grid: WindowGeometry) -> Tensor:
    """``[1, h*w, C]`` to windows ``[cells, C, tokens of a window]``."""
    maps = tokens.view(grid.map_h, grid.map_w, -1).roll((-grid.offset_h, -grid.offset_w), (0, 1))
    rows, columns = grid.map_h // grid.window_h, grid.map_w // grid.window_w
    cut = maps.view(rows, grid.window_h, columns, grid.window_w, -1).permute(0, 2, 4, 1, 3)
    return cut.reshape(rows * columns, -1, grid.window_h * grid.window_w)


def join(cells: Tensor, grid: WindowGeometry) -> Tensor:
    """Inverse of ``split``."""
    rows, columns = grid.map_h // grid.window_h, grid.map_w // grid.window_w
    cut = cells.view(rows, columns, -1, grid.window_h, grid.window_w).permute(0, 3, 1, 4, 2)
    maps = cut.reshape(grid.map_h, grid.map_w, -1).roll((grid.offset_h, grid.offset_w), (0, 1))
    return maps.reshape(1, grid.tokens, -1)


def authors_way(step: Step, mamba: Any) -> Step:
    """``step`` with the operators replaced by window copies around mamba_ssm's kernel."""
    copies = WindowCopies(mamba)

    def call() -> Any:
        with (
            mock.patch.object(ops, "windowed_causal_conv", copies.conv),
            mock.patch.object(ops, "windowed_selective_scan", copies.scan),
        ):
            return step()

    return call


def time_lowering(path: Path, backend: str) -> dict[str, Any]:
    """``Stream.step`` of a bundle with our operators and with their lowering, milliseconds."""
    found: dict[str, Any] = {}
    for name, native in (("our operators", None), ("lowering", False)):
        with streamseg.open(path, backend=backend, native=native) as stream:
            spec = stream.manifest.frame
            frame = np.random.default_rng(0).integers(
                0, 256, (spec.height, spec.width, 3), dtype=np.uint8
            )
            runs = []
            for _ in range(12):
                begin = time.perf_counter()
                stream.step(frame)
                runs.append((time.perf_counter() - begin) * 1000)
            found[name] = {"execution": stream.execution, "median": sorted(runs[2:])[5]}
    return found


@torch.no_grad()
def main() -> None:
    """Measure peer after peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", type=Path, default=ROOT / ".whl")
    parser.add_argument("--bundles", type=Path, default=ROOT / "build/gpu_bundles")
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    rehearsal = arguments.rehearse
    device = "cpu" if rehearsal else "cuda"
    model, size = build_model(rehearsal, device)
    folded = model.fold() if rehearsal else to_half(model.fold())
    state = make_state(model, size, device)
    frame = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, device=device)

    def step() -> Any:
        return folded.segment("step", frame, *state)

    def microseconds(call: Step) -> dict[str, Any]:
        peers = {"ours, CUDA graph": captured(step), "peer": call}
        return time_calls(peers, blocks=5, calls=2)

    def compiled() -> Step:
        how: dict[str, Any] = {"backend": "eager"} if rehearsal else {"mode": "max-autotune"}
        call: Step = torch.compile(step, **how)
        call()
        return call

    kernel = ReferenceKernel() if rehearsal else None
    bundle = arguments.bundles / ("small-tv3s-fp16" if rehearsal else "b1-fp16")
    parts: dict[str, Callable[[], Any]] = {
        "ONNX Runtime, milliseconds": lambda: time_lowering(
            bundle, "onnxruntime" if rehearsal else "cuda"
        ),
        "as its authors run it, eager float16": lambda: microseconds(
            authors_way(step, kernel or build_mamba(arguments.sources))
        ),
        "torch.compile, max-autotune, float16": lambda: microseconds(compiled()),
    }
    found: dict[str, Any] = {"rehearsal": rehearsal, "size": list(size)}
    for name, part in parts.items():
        try:
            found[name] = part()
        except Exception as error:  # one peer's failure must not cost the others' results
            traceback.print_exc()
            found[name] = {"failed": f"{type(error).__name__}: {str(error)[-300:]}"}
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps({name: found[name]}), flush=True)


if __name__ == "__main__":
    main()

"""Training steps of TV3S in float16 with a gradient scaler, on the GPU; JSON, exits 1 on a failure.

python benchmarks/gpu/training_step.py --out training.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from whole_frame import CLASSES, build_model, make_state

STEPS = 6


def train(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Losses, scale and milliseconds of steps on two frames, with state between them."""
    model, size = build_model(True, device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda", init_scale=2.0**12)
    torch.manual_seed(2)
    frames = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, device=device)
    found: dict[str, Any] = {"losses": [], "milliseconds": [], "finite": True}
    for _ in range(STEPS):
        begin = time.perf_counter()
        optimizer.zero_grad()
        state = make_state(model, size, device)
        losses = []
        for frame in frames:
            with torch.autocast(device, dtype=dtype):
                scores, *state = model.run_graph("step", frame[None], *state)
            target = torch.randint(0, CLASSES, (1, *scores.shape[2:]), device=device)
            losses.append(F.cross_entropy(scores.float(), target))
        loss = torch.stack(losses).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found["losses"].append(float(loss.detach()))  # waits for the device
        found["milliseconds"].append((time.perf_counter() - begin) * 1000)
    tensors = [p for p in model.parameters() if p.requires_grad]
    found["finite"] = all(bool(p.isfinite().all()) for p in tensors)
    found["without_gradient"] = sum(p.grad is None for p in tensors)
    found["scale"] = float(scaler.get_scale())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in bfloat16")
    arguments = parser.parse_args()
    device = "cpu" if arguments.rehearse else "cuda"
    found = train(device, torch.bfloat16 if arguments.rehearse else torch.float16)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    right = found["finite"] and all(map(torch.isfinite, map(torch.tensor, found["losses"])))
    print(json.dumps(found))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

"""State of the native bundle after many frames of real video, against float64 PyTorch.

    python benchmarks/drift.py CHECKPOINT --set window=10 --source VIDEO

Writes benchmarks/results/drift.{json,md}. The video is looped.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measuring import describe_machine, write_results

import streamseg
from streamseg.export import export_bundle, load_checkpoint

SIZE = (96, 128)


def loop_video(path: Path, frames: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """``frames`` frames at the model's size; restarts the video after its end."""
    given = 0
    while given < frames:
        with streamseg.open_source(str(path)) as source:
            for frame in source:
                if given == frames:
                    return
                yield cv2.resize(frame.image, SIZE[::-1], interpolation=cv2.INTER_AREA)
                given += 1


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Largest state error relative to the largest state value, by tensor."""
    model = load_checkpoint(
        arguments.checkpoint, settings=dict(text.split("=", 1) for text in arguments.set)
    )
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(model, folder, size=SIZE)
        wide = model.double()
        state = list(wide.initial_state(SIZE))
        with streamseg.open(folder, native=True, threads=1) as stream, torch.no_grad():
            agreed = []
            for image in loop_video(arguments.source, arguments.frames):
                labels = stream.step(image).labels
                logits, *state = wide(torch.from_numpy(image)[None], *state)
                agreed.append(float((logits[0].argmax(0).numpy() == labels).mean()))
            found = stream.snapshot().tensors
            names = [spec.name for spec in stream.manifest.state]
    errors = {
        name: float(np.abs(found[name] - exact.numpy()).max() / exact.abs().max())
        for name, exact in zip(names, state, strict=True)
    }
    return {
        "frames": arguments.frames,
        "size": SIZE,
        "source": arguments.source.name,
        "checkpoint": arguments.checkpoint.name,
        "relative_state_error": errors,
        "worst": max(errors.values()),
        "labels_agreement_last_100": float(np.mean(agreed[-100:])),
    }


def format_table(result: dict[str, Any]) -> str:
    """One row per kind of state."""
    lines = [
        f"State after {result['frames']} frames of {result['source']} at {SIZE[0]}x{SIZE[1]}, "
        f"native bundle against float64; {result['machine']['processor']}, "
        f"commit {result['machine']['commit']}.",
        "",
        "| state | largest error / largest value |",
        "|---|---|",
        *(f"| {name} | {error:.1e} |" for name, error in result["relative_state_error"].items()),
        "",
        f"Worst {result['worst']:.1e}; labels of the last 100 frames agree on "
        f"{result['labels_agreement_last_100']:.4%}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--frames", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {"machine": describe_machine(1), **measure(arguments)}
    write_results("drift", result, format_table(result))


if __name__ == "__main__":
    main()

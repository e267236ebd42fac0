r"""The cost of float16: labels, logits and state against float32 over real video, and mIoU.

    python benchmarks/precision.py CHECKPOINT --set window=10 --size 352x480 \
        --clip VIDEO --clip FOLDER --camvid ROOT

Exports the checkpoint in both precisions, runs both on 500 frames of each clip (looped, with the
state kept), and scores both on CamVid's test split. Both run in ONNX Runtime on the CPU with the
native operators. It has few float16 kernels there and may stay in
float32 between nodes, so a GPU rounds more often than this shows.
Writes benchmarks/results/fp16.{json,md}.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_machine, write_results

from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.datasets.footage import open_footage
from streamseg.evaluation.drift import Comparison, ComparisonOptions, compare
from streamseg.evaluation.scores import evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.export import export_bundle, load_checkpoint

NATIVE = SegmenterOptions(native=True)
PRECISIONS = ("fp32", "fp16")


def export(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both bundles: bytes of their graphs and parity with PyTorch."""
    model = load_checkpoint(
        arguments.checkpoint, settings=dict(text.split("=", 1) for text in arguments.set)
    )
    height, width = (int(extent) for extent in arguments.size.split("x"))
    found = {}
    for precision in PRECISIONS:
        report = export_bundle(
            model, folder / precision, size=(height, width), logits=True, precision=precision
        )
        found[precision] = {"bytes": report.bytes, "parity": dict(report.parity)}
    return found


def drift(folder: Path, clip: Path, frames: int) -> dict[str, Any]:
    """Play a clip through both."""
    with open_segmenter(folder / "fp32", NATIVE) as a, open_segmenter(folder / "fp16", NATIVE) as b:
        a.name, b.name = PRECISIONS
        result = compare(a, b, open_footage(clip).clips[0], ComparisonOptions(frames=frames))
    return summarise(clip.name, result)


def summarise(name: str, result: Comparison) -> dict[str, Any]:
    """Agreement, logits and, for each state tensor, its errors."""
    agreement = [frame.agreement for frame in result.frames]
    states = {
        state: {
            "median": float(np.median(result.series(state))),
            "last": float(result.series(state)[-1]),
            "worst": float(result.series(state).max()),
            "trend": result.trend(state),
        }
        for state in result.state_names
    }
    return {
        "clip": name,
        "frames": len(result.frames),
        "labels_equal": {
            "mean": float(np.mean(agreement)),
            "worst": min(agreement),
            "last_100": float(np.mean(agreement[-100:])),
        },
        "logits_max": max(frame.logits or 0.0 for frame in result.frames),
        "logits_rms": float(np.mean([frame.logits_rms or 0.0 for frame in result.frames])),
        "trend": result.trend(),
        "states": states,
    }


def score(folder: Path, camvid: Path) -> dict[str, Any]:
    """Accuracy on the test split, a drive that training has not seen."""
    dataset = open_dataset(f"camvid:{camvid}", "test")
    found = {}
    for precision in PRECISIONS:
        with open_segmenter(folder / precision, NATIVE) as segmenter:
            scores = evaluate(segmenter, dataset).scores
        found[precision] = {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "frames": scores.frames,
        }
    return {"dataset": "CamVid test (Seq05VD)", **found}


def table(content: dict[str, Any]) -> str:
    """The page of the results."""
    machine, sizes = content["machine"], content["export"]
    lines = [
        f"float16 against float32, {content['size']}, native operators, ONNX Runtime "
        f"{machine['versions']['onnxruntime']} on the CPU; commit {machine['commit']}.",
        "The CPU may stay in float32 between nodes: a GPU rounds more often.",
        "",
        f"Graph: {sizes['fp32']['bytes'] / 1e6:.2f} MB float32, "
        f"{sizes['fp16']['bytes'] / 1e6:.2f} MB float16.",
        "",
        "| clip | frames | labels equal, mean | worst frame | last 100 | logits, max | rms | "
        "worst state error | over the run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in content["drift"]:
        labels = run["labels_equal"]
        worst = max(state["worst"] for state in run["states"].values())
        lines.append(
            f"| {run['clip']} | {run['frames']} | {labels['mean']:.3%} | {labels['worst']:.3%} | "
            f"{labels['last_100']:.3%} | {run['logits_max']:.3f} | {run['logits_rms']:.4f} | "
            f"{worst:.1e} | {run['trend']} |"
        )
    lines += ["", "State errors are relative, |b - a| / |a|, over all frames.", ""]
    names = [run["clip"] for run in content["drift"]]
    lines += [
        "| state | " + " | ".join(f"{name}: median | worst | trend" for name in names) + " |",
        "|---|" + "---|---|---|" * len(names),
    ]
    for state in content["drift"][0]["states"]:
        cells = []
        for run in content["drift"]:
            entry = run["states"][state]
            cells += [f"{entry['median']:.1e}", f"{entry['worst']:.1e}", entry["trend"]]
        lines.append(f"| {state} | {' | '.join(cells)} |")
    if "accuracy" in content:
        scores = content["accuracy"]
        lines += ["", f"| {scores['dataset']} | mIoU, % | pixel accuracy, % |", "|---|---|---|"]
        for precision in PRECISIONS:
            entry = scores[precision]
            lines.append(
                f"| {precision} | {entry['miou']:.3%} | {entry['pixel_accuracy']:.3%} |".replace(
                    "%", ""
                )
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--size", default="352x480")
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--frames", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content: dict[str, Any] = {
            "machine": describe_machine(os.cpu_count() or 1),
            "checkpoint": arguments.checkpoint.name,
            "size": arguments.size,
            "export": export(arguments, folder),
            "drift": [drift(folder, clip, arguments.frames) for clip in arguments.clip],
        }
        if arguments.camvid is not None:
            content["accuracy"] = score(folder, arguments.camvid)
    write_results("fp16", content, table(content))


if __name__ == "__main__":
    main()

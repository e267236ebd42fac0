"""The cost of a split: labels of a segment against the unsplit run, by number of warm-up frames.

    python benchmarks/seams.py CHECKPOINT --set window=10 --size 352x480 --source VIDEO ...

Writes benchmarks/results/seams.{json,md,png}. They contain no frame of the footage.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import RESULTS, describe_machine, write_results

import streamseg
from streamseg.batch.work import DEFAULT_OVERLAP
from streamseg.export import export_bundle, load_checkpoint
from streamseg.runtime.video.resize import Image

OVERLAPS = (0, 4, 8, 16, 32)
AFTER = 20  # frames compared after a seam
SPACING = 16  # frames between seams
GOAL = 0.999  # share of equal labels that every frame should reach
SEPARATE = 64  # a seam has room for the longest overlap, and state that is old


def read_frames(source: str) -> list[Image]:
    """A whole source in memory."""
    with streamseg.open_source(source) as video:
        return [frame.image for frame in video]


def label(stream: streamseg.Stream, frames: list[Image]) -> list[Image]:
    """Label maps from zero state."""
    stream.reset()
    return [stream.step(frame).labels.copy() for frame in frames]


def measure(stream: streamseg.Stream, source: str) -> dict[str, Any]:
    """Share of equal labels, for each overlap: seams x frames after the seam."""
    frames = read_frames(source)
    whole = label(stream, frames)
    seams = list(range(SEPARATE, len(frames) - AFTER + 1, SPACING))
    if not seams:
        raise SystemExit(f"{source} has {len(frames)} frames, expected {SEPARATE + AFTER} or more")
    agreement = {}
    for overlap in OVERLAPS:
        rows = []
        for seam in seams:
            found = label(stream, frames[seam - overlap : seam + AFTER])[overlap:]
            wanted = whole[seam : seam + AFTER]
            pairs = zip(found, wanted, strict=True)
            rows.append([float((got == want).mean()) for got, want in pairs])
        agreement[str(overlap)] = rows
        print(f"{source}, overlap {overlap}: {np.mean(rows):.5%}", flush=True)
    return {
        "source": "/".join(Path(source).parts[-2:]),
        "frames": len(frames),
        "frame_size": frames[0].shape[:2],
        "seams": seams,
        "agreement": agreement,
    }


def format_table(result: dict[str, Any]) -> str:
    """One row per overlap, for each source."""
    machine = result["machine"]
    lines = [
        f"Labels behind a seam against the unsplit run, {AFTER} frames a seam; "
        f"{result['checkpoint']} at {result['size']}; ONNX Runtime "
        f"{machine['versions']['onnxruntime']}, 1 thread, commit {machine['commit']}.",
        "",
    ]
    for measured in result["sources"]:
        height, width = measured["frame_size"]
        lines += [
            f"{measured['source']}: {measured['frames']} frames {height}x{width}, "
            f"{len(measured['seams'])} seams.",
            "",
            "| overlap, frames | first frame | mean | worst frame |",
            "|---|---|---|---|",
        ]
        for overlap, rows in measured["agreement"].items():
            values = np.array(rows)
            lines.append(
                f"| {overlap} | {values[:, 0].mean():.4%} | {values.mean():.4%} | "
                f"{values.min():.4%} |"
            )
        lines.append("")
    lines.append(
        f"`streamseg batch` warms a segment up on {DEFAULT_OVERLAP} frames unless `--overlap` says "
        f"otherwise: the fewest of these with which every frame agrees on {GOAL:.1%} or more is "
        f"{find_overlap(result)}."
    )
    return "\n".join(lines) + "\n"


def find_overlap(result: dict[str, Any]) -> str:
    """The shortest overlap whose worst frame, over all sources, reaches the goal."""
    for overlap in map(str, OVERLAPS):
        worst = min(np.min(measured["agreement"][overlap]) for measured in result["sources"])
        if worst >= GOAL:
            return overlap
    return f"none; the longest is {OVERLAPS[-1]}"


def draw(result: dict[str, Any], path: Path) -> None:
    """Disagreement over the frames after the seam, one line per overlap."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sources = result["sources"]
    figure, axes = pyplot.subplots(
        1, len(sources), figsize=(5 * len(sources), 3.6), sharey=True, squeeze=False
    )
    for axis, measured in zip(axes[0], sources, strict=True):
        for overlap, rows in measured["agreement"].items():
            axis.plot(100 * (1 - np.array(rows).mean(axis=0)), marker=".", label=overlap)
        axis.set_yscale("log")
        axis.axhline(100 * (1 - GOAL), color="0.4", linewidth=0.8, linestyle="--")
        axis.set_xticks(range(0, AFTER, 4))
        axis.set_title(measured["source"], fontsize=10)
        axis.set_xlabel("frames behind the seam")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("labels that differ, percent")
    axes[0][0].legend(title="overlap, frames", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--source", action="append", required=True, help="repeatable")
    parser.add_argument("--size", default="352x480", help="HxW")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    model = load_checkpoint(
        arguments.checkpoint, settings=dict(text.split("=", 1) for text in arguments.set)
    )
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(model, folder, size=(height, width))
        with streamseg.open(folder, threads=1) as stream:
            sources = [measure(stream, source) for source in arguments.source]
    result = {
        "machine": describe_machine(1),
        "checkpoint": arguments.checkpoint.name,
        "size": arguments.size,
        "sources": sources,
    }
    draw(result, RESULTS / "seams.png")
    write_results("seams", result, format_table(result))


if __name__ == "__main__":
    main()

"""Accuracy that the grid of the scores allows: true labels averaged to it and enlarged again.

    python benchmarks/label_grid.py

A network of the street sample's kind gives scores at an eighth of its input. The best it could give
there are the shares of the classes in each cell; enlarged to the size of the labels, their largest
share is not always the true label. Writes benchmarks/results/label_grid.{json,md}.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

if __package__:
    from benchmarks.measuring import RESULTS, describe_machine, write_results
else:
    from measuring import RESULTS, describe_machine, write_results

from streamseg.evaluation.datasets import VOID, Dataset, open_dataset
from streamseg.evaluation.metrics import class_iou, confusion

Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]
STRIDE = 8
INPUTS = ((128, 256), (256, 512), (384, 768))


def coarsen(labels: Labels, grid: tuple[int, int], classes: int) -> Labels:
    """Labels ``[H, W]`` after averaging their classes to ``grid`` and enlarging bilinearly."""
    known = torch.from_numpy(np.where(labels == VOID, classes, labels)).long()
    shares = F.one_hot(known, classes + 1)[..., :classes].permute(2, 0, 1)[None].float()
    small = F.interpolate(shares, grid, mode="area")
    large = F.interpolate(small, labels.shape, mode="bilinear", align_corners=False)
    return large[0].argmax(0).numpy().astype(np.uint8)


def measure(dataset: Dataset, grids: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """For each grid, in percent: mean IoU, and that of each class that occurs."""
    count = len(dataset.classes)
    totals = np.zeros((len(grids), count, count + 1), np.int64)
    for clip in dataset.clips:
        for frame in clip:
            assert frame.label is not None
            for total, grid in zip(totals, grids, strict=True):
                total += confusion(coarsen(frame.label, grid, count), frame.label, count)
    return [describe(total, [entry.name for entry in dataset.classes]) for total in totals]


def describe(total: Counts, names: Sequence[str]) -> dict[str, Any]:
    """IoU of a confusion matrix, in percent."""
    found = class_iou(total)
    percent = {
        name: round(100 * float(iou), 2)
        for name, iou in zip(names, found, strict=True)
        if np.isfinite(iou)
    }
    return {"miou": round(100 * float(np.nanmean(found)), 2), "per_class": percent}


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    first = result["rows"][0]["per_class"]
    lines = [
        f"True labels averaged to the grid of the scores and enlarged again; {result['drawn']}, "
        f"split `val`. Percent; commit {result['machine']['commit']}.",
        "",
        "| network input | grid | mIoU | " + " | ".join(first) + " |",
        "|---" * (3 + len(first)) + "|",
    ]
    for row in result["rows"]:
        size, grid = ("x".join(map(str, row[name])) for name in ("input", "grid"))
        classes = " | ".join(f"{row['per_class'][name]:.2f}" for name in first)
        lines.append(f"| {size} | {grid} | {row['miou']:.2f} | {classes} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    drawn = f"synthetic:street?size=128x256&scenes={arguments.scenes}&frames={arguments.frames}"
    dataset = open_dataset(drawn, "val")
    grids = [(height // STRIDE, width // STRIDE) for height, width in INPUTS]
    found = measure(dataset, grids)
    rows = [
        {"input": size, "grid": grid, **row}
        for size, grid, row in zip(INPUTS, grids, found, strict=True)
    ]
    result = {"machine": describe_machine(1), "drawn": drawn, "rows": rows}
    write_results("label_grid", result, table(result), arguments.results)


if __name__ == "__main__":
    main()

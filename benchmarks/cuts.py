"""Scene cuts found and missed, false resets, and the cost of detection.

    python benchmarks/cuts.py --data FOLDER

Clips are joined in pairs at several places; a reset anywhere except at a join is false. There is no
peer here that uses no later frames; PySceneDetect's adaptive detector needs two.
"""

from __future__ import annotations

import argparse
import time
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_machine, summarise, write_results

from streamseg.runtime.bundle.manifest import PolicySpec
from streamseg.runtime.session.cuts import CutDetector
from streamseg.runtime.sources import open_source
from streamseg.runtime.sources.folder import read_image
from streamseg.runtime.video.resize import Image

REAL, SLOW, SCENES = "real, 15 and 25 fps", "real, 1 fps", "synthetic"
BEFORE, AFTER = 20, 8  # frames on both sides of a join
HARSH = ("", "&speed=40&sway=3", "&flicker=1", "&flicker=2")


def read_clips(data: Path) -> dict[str, dict[str, list[Image]]]:
    """Clips by kind and name."""
    with open_source(str(data / "clips" / "highway_960x540.mp4")) as source:
        real = {"highway": [frame.image for frame in source]}
    folder = sorted((data / "camvid" / "val").glob("*.jpg"))
    real["camvid val"] = [read_image(path) for path in folder]
    drives: dict[str, list[Image]] = {}
    for path in sorted((data / "camvid").glob("t*[nt]/*.jpg")):
        drives.setdefault(path.stem.partition("_")[0], []).append(read_image(path))
    presets = {name: scene(f"{name}?seed=2") for name in ("clean", "easy", "street", "hard")}
    return {REAL: real, SLOW: drives, **{f"{SCENES}, {n}": {n: s} for n, s in presets.items()}}


def scene(address: str) -> list[Image]:
    """A hundred frames of a synthetic drive."""
    with open_source(f"synthetic:{address}&size=144x256&frames=100") as source:
        return [frame.image for frame in source]


def find_cuts(images: list[Image]) -> list[int]:
    """Indices of the frames that begin a scene."""
    detector = CutDetector(PolicySpec().scene_cut)
    return [index for index, image in enumerate(images) if detector.is_cut(image)]


def count_false(clips: list[list[Image]]) -> tuple[int, int]:
    """Cuts found in clips that have none, and their frames."""
    return sum(len(find_cuts(clip)) for clip in clips), sum(map(len, clips))


def count_joins(
    before: dict[str, list[Image]], after: dict[str, list[Image]]
) -> tuple[int, int, int]:
    """Joins found, all joins, and cuts found elsewhere."""
    found = joins = false = 0
    for (name, first), (other, second) in permutations({**before, **after}.items(), 2):
        if name not in before or other not in after:
            continue
        for end in range(BEFORE, min(len(first), 100), 13):
            for begin in (0, 17, 40):
                seen = find_cuts(first[end - BEFORE : end] + second[begin : begin + AFTER])
                joins, found = joins + 1, found + (BEFORE in seen)
                false += len([index for index in seen if index != BEFORE])
    return found, joins, false


def measure_cost() -> dict[str, dict[str, float]]:
    """Milliseconds a frame, by size of the frame."""
    costs = {}
    for size in ((540, 960), (1080, 1920)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        detector, samples = CutDetector(15.0), []
        for _ in range(300):
            started = time.perf_counter()
            detector.is_cut(image)
            samples.append((time.perf_counter() - started) * 1e3)
        costs[f"{size[0]}x{size[1]}"] = summarise(samples)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with camvid/ and clips/")
    options = parser.parse_args()
    clips = read_clips(options.data)
    every = {name: clip for kind in clips.values() for name, clip in kind.items()}
    rows: dict[str, Any] = {}
    for kind, own in clips.items():
        wrong, frames = count_false(list(own.values()))
        found, joins, false = count_joins(own, every)
        rows[kind] = {"joins": joins, "found": found, "false": wrong + false, "frames": frames}
    harsh = [scene(f"{name}?seed=3{extra}") for name in ("clean", "street") for extra in HARSH]
    wrong, frames = count_false(harsh)
    rows["synthetic, fast and flickering"] = {"false": wrong, "frames": frames}
    costs = measure_cost()
    table = "| footage before the join | joins | found | false resets | frames without a join |\n"
    table += "|---|---|---|---|---|\n"
    for kind, row in rows.items():
        cells = (row.get(name, "") for name in ("joins", "found", "false", "frames"))
        table += f"| {kind} | " + " | ".join(map(str, cells)) + " |\n"
    spent = ", ".join(f"{costs[size]['median_ms']:.2f} ms at {size}" for size in costs)
    table += f"\nA frame costs {spent} (median).\n"
    content = {"machine": describe_machine(1), "rows": rows, "cost": costs}
    write_results("cuts", content, table)


if __name__ == "__main__":
    main()

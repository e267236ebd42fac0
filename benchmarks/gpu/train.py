"""Trains the networks of the samples and tables on a GPU, within a given time.

    python benchmarks/gpu/train.py start build/gpu_train --seconds 90
    python benchmarks/gpu/train.py finish build/gpu_train --seconds 200 --out "$OUT"

``start`` draws the scenes with all cores, and meanwhile trains what needs none of them: TV3S on
CamVid with and without erased parts, SegFormer-B0 on CamVid, and small MRCFA and MPVSS networks.
``finish`` waits for the scenes, trains the street sample on and a memory over its frozen encoder,
scores both on drives that were not trained on, and packs weights, logs and scores into ``--out``.
Every run chooses its number of steps from its own speed (``streamseg train --until``). The folder
holds what build/gpu_train needs to be carried: ``camvid`` (split train), ``camvid.pth`` (a TV3S
checkpoint to start from) and ``trunk`` (a SegFormer bundle); a run whose file is missing is
skipped. ``--rehearse``: tiny, on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STREET = ROOT / "samples" / "street" / "street.safetensors"
SCORING = 45.0


@dataclass(frozen=True)
class Sizes:
    """What a rehearsal makes smaller.

    Attributes:
        scenes, frames: of the training drives.
        held: scenes to score.
        crop: of street clips, three times the drawn size.
        batch: clips of the street's steps.
        device: of all runs.
        workers: that draw.
    """

    scenes: int = 900
    frames: int = 32
    held: int = 20
    held_frames: int = 40
    drawn: str = "128x256"
    crop: str = "384x768"
    batch: int = 12
    warmup: int = 40
    device: str = "cuda"
    workers: int = 12

    def street(self, scenes: int, frames: int) -> str:
        """Address of drawn streets."""
        return f"synthetic:street?size={self.drawn}&scenes={scenes}&frames={frames}"


REHEARSAL = Sizes(
    scenes=2, frames=9, held=1, held_frames=4, drawn="32x64", crop="96x192", batch=2, warmup=2,
    device="cpu", workers=2,
)  # fmt: skip


# PyAV takes 35 MiB to carry, and no video is read here.
NO_VIDEO = """
import sys
from unittest.mock import MagicMock

for name in ("codec.hwaccel", "container", "error", "filter", "sidedata.sidedata", "video.stream"):
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        sys.modules["av." + ".".join(parts[:count])] = MagicMock()
"""


def without_video(folder: Path) -> Path | None:
    """A folder with a stand-in for PyAV, None where PyAV is installed."""
    if importlib.util.find_spec("av") is not None:
        return None
    package = folder / "site" / "av"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(NO_VIDEO)
    return package.parent


class Runs:
    """Processes side by side, each with a log of its own in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.failed: list[str] = []

    def start(self, name: str, command: Sequence[object], *, nice: int = 0) -> None:
        """Start a Python command."""
        with (self._folder / f"{name}.txt").open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["nice", "-n", str(nice), sys.executable, *map(str, command)],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )

    def wait(self, until: float, *names: str) -> None:
        """Wait for these, or all; those that run past ``until`` (Unix time) are ended."""
        for name in names or tuple(self._running):
            process = self._running.pop(name)
            try:
                code = process.wait(max(0.1, until - time.time()))
            except subprocess.TimeoutExpired:
                process.terminate()
                code = -1
            if code:
                self.failed.append(name)


def train_command(
    folder: Path, name: str, sizes: Sizes, options: str, *, until: float
) -> list[object]:
    """``streamseg train`` into ``folder/name``."""
    shared = (
        f"--drop-path 0 --clip-norm 1 --ema 0.99 --precision bf16 --half --warmup {sizes.warmup} "
        f"--device {sizes.device} --steps 100000 --save-every 100000 --log-every 10"
    )
    command = ["-m", "streamseg.cli.main", "train", *shared.split(), *options.split()]
    return [*command, "--until", f"{until:.0f}", "-o", folder / name]


def start(folder: Path, sizes: Sizes, until: float) -> list[str]:
    """Draw, and train what needs no drawn scenes; the drawing goes on if it is not done by then."""
    runs = Runs(folder)
    draw = [__file__, "draw", folder, *([] if sizes.device == "cuda" else ["--rehearse"])]
    with (folder / "draw.txt").open("ab") as log:
        subprocess.Popen(
            ["nice", "-n", "5", sys.executable, *map(str, draw)],
            stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
    small = sizes.device == "cpu"
    if (folder / "camvid").is_dir():
        camvid = (
            f"--dataset camvid:{folder / 'camvid'} --encoder mit_b0 --embed-dim 64 "
            "--class-weights log --seed 1 --workers 3 --license CC-BY-NC-4.0 "
        )
        clips = (
            f"--init {folder / 'camvid.pth'} --set window=10 --set shift=5 --offsets=-3,-2,-1,0 "
            f"--batch {1 if small else 16} --crop {'96x96' if small else '352x480'} "
            "--scale 0.7-1.6 --lr 1e-4 --head-lr 5 --supervise all --auxiliary 0.1 "
        )
        frames = (
            f"--model segformer --offsets 0 --batch {2 if small else 48} "
            f"--crop {'96x96' if small else '288x320'} --scale 0.55-1.75 --lr 1e-3 --head-lr 2.5 "
        )
        variants = {"plain": clips, "erase": clips + "--erase 0.3", "frames": frames}
        for name, options in variants.items():
            command = train_command(folder, f"camvid-{name}", sizes, camvid + options, until=until)
            runs.start(f"camvid-{name}", command)
    heads = family_command(folder / "heads", "mrcfa", sizes, until=until)
    runs.start("mrcfa", [*heads, "--commit", folder / "heads"])
    seconds = f"{until - time.time():.0f}"
    rehearsal = ["--rehearse"] if small else []
    runs.start("queries", [__file__, "queries", folder, "--seconds", seconds, *rehearsal])
    runs.wait(until + 30)
    return runs.failed


def family_command(home: Path, name: str, sizes: Sizes, *, until: float) -> list[object]:
    """A run of benchmarks/families.py; ``home`` has a cache of its own."""
    small = sizes.device == "cpu"
    scenes, steps, batch = (2, 6, 1) if small else (40, 10000, 4)
    command: list[object] = [ROOT / "benchmarks" / "families.py", home, "--only", name]
    command += ["--device", sizes.device, "--scenes", scenes, "--workers", 2]
    return [*command, "--steps", steps, "--batch", batch, "--until", f"{until:.0f}"]


def train_queries(folder: Path, sizes: Sizes, until: float) -> list[str]:
    """Mask2Former, then MPVSS over it."""
    runs = Runs(folder)
    begin = time.time()
    for name, share in (("mask2former", 0.6), ("mpvss", 1.0)):
        end = begin + (until - begin) * share
        runs.start(name, family_command(folder / "queries", name, sizes, until=end))
        runs.wait(end + 30)
    return runs.failed


def draw(folder: Path, sizes: Sizes) -> None:
    """Draw the scenes to train on and those to score, into caches."""
    from streamseg.evaluation.datasets import open_dataset
    from streamseg.training.cache import cache_frames

    for split, scenes, frames in (
        ("val", sizes.held, sizes.held_frames),
        ("train", sizes.scenes, sizes.frames),
    ):
        begin = time.time()
        dataset = open_dataset(sizes.street(scenes, frames), split)
        cache_frames(dataset, folder / f"drawn-{split}", workers=sizes.workers)
        print(f"{split}: {scenes * frames} frames in {time.time() - begin:.1f} s", flush=True)


def class_weights(cache: Path, path: Path) -> None:
    """Weights 1 / ln(1.2 + frequency): milder than ``--class-weights log``, for mean IoU."""
    labels = np.load(cache / "labels.npy", mmap_mode="r")
    counts = np.bincount(np.ravel(labels[::37]), minlength=256)[:19]
    weights = 1 / np.log(1.2 + counts / counts.sum())
    path.write_text(json.dumps([round(float(weight), 4) for weight in weights]))


def finish(folder: Path, sizes: Sizes, until: float, rate: float) -> list[str]:
    """Train the sample on, and a memory; then score."""
    scored = folder / "drawn-train" / "index.json"
    while not scored.is_file() and time.time() < until - 60:
        time.sleep(0.5)
    class_weights(folder / "drawn-train", folder / "weights.json")
    scoring = SCORING if sizes.device == "cuda" else 20.0
    end = until - scoring
    small = sizes.device == "cpu"
    streets = (
        f"--dataset {sizes.street(sizes.scenes, sizes.frames)} --cache {folder / 'drawn-train'} "
        "--no-photometric --power 0.9 --supervise all --license Apache-2.0 --silence-absent "
    )
    blocks = "--embed-dim 64 --layers 4 --set window=2 --set shift=1 "
    runs = Runs(folder)
    options = (
        f"{streets} {blocks} --encoder mit_b0 --class-weights {folder / 'weights.json'} "
        f"--offsets=-7,-6,-5,-4,-3,-2,-1,0 --batch {sizes.batch} --crop {sizes.crop} "
        f"--scale 3-3.25 --lr {rate} --head-lr 3 --weight-decay 0.02 --auxiliary 0.05 "
        f"--seed 21 --workers {1 if small else 8} --init {STREET}"
    )
    runs.start("street", train_command(folder, "street", sizes, options, until=end))
    if (folder / "trunk").is_dir():
        memory = (
            f"{streets} {blocks} --memory-for {folder / 'trunk'} --offsets=-5,-4,-3,-2,-1,0 "
            "--class-weights log --batch 4 --crop 256x512 --scale 2-2 --lr 2e-3 --seed 22 "
            f"--workers 1 --threads {2 if small else 6}"
        )
        runs.start("memory", train_command(folder, "memory", sizes, memory, until=end), nice=5)
    # Weights are written after the last step, once the classes of all drawn frames are counted.
    runs.wait(until - 5, "street")
    extra = ["--rehearse"] if small else []
    for name in ("state", "reset", "before"):
        command = [__file__, "score", folder, *extra, "--weights"]
        weights = STREET if name == "before" else folder / "street" / "weights.safetensors"
        if weights.is_file():
            reset = ["--reset"] if name == "reset" else []
            runs.start(f"score-{name}", [*command, weights, *reset, "--json", f"{name}.json"])
    runs.wait(until + 5)
    return runs.failed


def score(folder: Path, sizes: Sizes, weights: Path, *, reset: bool) -> dict[str, Any]:
    """Score a network on the held-out drives: whole clips at once, from the zero state.

    Nearly the figures of ``streamseg eval``, which resizes with OpenCV.
    """
    import torch

    from streamseg.evaluation.datasets import open_dataset
    from streamseg.evaluation.metrics import SegmentationMetrics
    from streamseg.export import load_checkpoint
    from streamseg.export.step import upsample
    from streamseg.runtime.video.resize import FrameFitter
    from streamseg.training.cache import cache_frames
    from streamseg.training.networks import ClipNetwork

    dataset = cache_frames(
        open_dataset(sizes.street(sizes.held, sizes.held_frames), "val"), folder / "drawn-val"
    )
    drawn = tuple(int(side) for side in sizes.drawn.split("x"))
    times = 2 if weights == STREET else 3
    size = drawn[0] * times, drawn[1] * times
    network = ClipNetwork(load_checkpoint(weights).to(sizes.device)).eval()
    metrics = SegmentationMetrics(len(dataset.classes))
    fitter = FrameFitter((drawn[0], drawn[1]), size)
    for clip in dataset.clips:
        entries = list(clip)
        frames = np.empty((len(entries), *size, 3), np.uint8)
        for entry, fitted in zip(entries, frames, strict=True):
            fitter.fit(entry.image, fitted)
        shown = torch.from_numpy(frames).to(sizes.device)
        with torch.inference_mode():
            scores, _ = network(shown[:, None] if reset else shown[None])
            logits = upsample(upsample(scores.flatten(0, 1).float(), size), (drawn[0], drawn[1]))
            labels = logits.argmax(1).to(torch.uint8).cpu().numpy()
        metrics.start_clip(clip.name)
        for found, entry in zip(labels, entries, strict=True):
            metrics.add(found, entry.label)
    scores_ = metrics.scores()
    names = [entry.name for entry in dataset.classes]
    return {
        "weights": weights.name,
        "size": list(size),
        "reset": reset,
        "miou": scores_.miou,
        "pixel_accuracy": scores_.pixel_accuracy,
        **{f"mvc{n}": value for n, value in scores_.mvc.items()},
        "per_class": dict(zip(names, scores_.iou, strict=True)),
    }


def pack(folder: Path, out: Path) -> None:
    """Weights, logs and scores, in archives that one transfer takes: at most 16 MiB each."""
    out.mkdir(parents=True, exist_ok=True)
    groups = {
        "street": ["street/weights.safetensors", "memory/weights.safetensors"],
        "camvid-clips": ["camvid-plain/weights.safetensors", "camvid-erase/weights.safetensors"],
        "camvid-frames": ["camvid-frames/weights.safetensors", "heads/mrcfa.safetensors"],
        "queries": ["queries/mpvss/weights.safetensors"],
        "mask2former": ["queries/mask2former/weights.safetensors"],
    }
    records = [
        path.relative_to(folder)
        for pattern in ("*.txt", "*.json", "*/config.json", "*/log.jsonl", "*/curves.png",
                        "*/*/config.json", "*/*/log.jsonl")
        for path in sorted(folder.glob(pattern))
        if not path.is_relative_to(folder / "trunk")
    ]  # fmt: skip
    for name, paths in (*groups.items(), ("records", records)):
        present = [path for path in paths if (folder / path).is_file()]
        if present:
            with tarfile.open(out / f"{name}.tar.gz", "w:gz", compresslevel=1) as archive:
                for path in present:
                    archive.add(folder / path, str(path))
            print(f"{name}: {(out / f'{name}.tar.gz').stat().st_size / 2**20:.1f} MiB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("start", "draw", "queries", "finish", "score", "pack"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--rate", type=float, default=6e-4, help="street's peak learning rate")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", type=Path, default=STREET)
    parser.add_argument("--reset", action="store_true")
    parser.add_argument("--json", help="name of the score in the folder")
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    sizes = REHEARSAL if arguments.rehearse else Sizes()
    until = time.time() + arguments.seconds
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    stand_in = without_video(folder)
    path = [str(ROOT / "src"), *([str(stand_in)] if stand_in else [])]
    sys.path[:0] = path
    os.environ["PYTHONPATH"] = ":".join([*path, os.environ.get("PYTHONPATH", "")])
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    failed: list[str] = []
    if arguments.what == "start":
        failed = start(folder, sizes, until)
    elif arguments.what == "draw":
        draw(folder, sizes)
    elif arguments.what == "queries":
        failed = train_queries(folder, sizes, until)
    elif arguments.what == "score":
        found = score(folder, sizes, arguments.weights, reset=arguments.reset)
        (folder / arguments.json).write_text(json.dumps(found, indent=1) + "\n")
        print(arguments.json, round(100 * found["miou"], 2), flush=True)
    elif arguments.what == "finish":
        failed = finish(folder, sizes, until, arguments.rate)
    if arguments.out is not None:
        pack(folder, arguments.out)
    for name in failed:
        log = (folder / f"{name}.txt").read_text(errors="replace")
        print(f"-- {name} failed; the end of its log:\n{log[-1500:]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

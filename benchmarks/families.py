"""Trains small CFFM, CFFM++, MRCFA, Mask2Former and MPVSS networks on the drawn streets.

    python benchmarks/families.py out/families

CFFM, CFFM++ and MRCFA are heads on the street sample's encoder, which is frozen; the weights that
they add can be committed, as under samples/families. Mask2Former is trained from scratch, and MPVSS
on top of it; their decoders are 256 wide at any size, so their weights are too large to commit.
An interrupted run resumes; a finished one is skipped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from streamseg.evaluation.datasets import Dataset, open_dataset
from streamseg.export.models.mask2former import Mask2Former, Mask2FormerConfig
from streamseg.export.models.motion import MotionSizes
from streamseg.export.models.mpvss import MPVSS, MPVSSConfig
from streamseg.export.models.pixels import PixelSizes
from streamseg.export.models.resnet import ResNetSizes
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.training.cache import cache_frames
from streamseg.training.clip_sampler import count_classes
from streamseg.training.config import ClipConfig, NetworkConfig, RunOptions, TrainConfig
from streamseg.training.loop import train
from streamseg.training.mask_clips import freeze_detector
from streamseg.training.networks import Network, build_network, start_from
from streamseg.training.saving import RunFolder, save_weights

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
STREET = SAMPLES / "street" / "street.safetensors"
COMMITTED = SAMPLES / "families"
LICENSE = "Apache-2.0"
BACKBONE = "backbone."
REFERENCES = (-9, -6, -3)
# Networks that are small enough to commit.
HEADS = ("cffm", "cffm++", "mrcfa")
QUERIES = 24
MASK_SIZES: dict[str, Any] = {
    "encoder": ResNetSizes((1, 1, 1, 1), stem=16, bottleneck=16, width=64),
    "pixels": PixelSizes(width=32, mask_width=32, layers=1, inner=64),
    "layers": 3,
    "inner": 128,
    "queries": QUERIES,
}
MOTION = MotionSizes(
    stages=(((16, 7),), ((32, 5),), ((32, 5),), ((48, 3),), ((48, 3),), ((64, 3),)),
    layers=1,
    inner=128,
    queries=QUERIES,
)


@dataclass(frozen=True)
class Recipe:
    """One network: how it is built, what it starts from, and its settings."""

    build: Callable[[Dataset], Network]
    config: TrainConfig
    init: str | None = None


def build_reference(model: str, dataset: Dataset) -> Network:
    """CFFM, CFFM++ or MRCFA as wide as the street sample, its encoder frozen."""
    config = NetworkConfig(model=model, encoder="mit_b0", embed_dim=64, drop_path=0.0)
    network = build_network(config, dataset.classes, seed=0)
    for name, value in network.named_parameters():
        if name.startswith(BACKBONE):
            value.requires_grad_(False)
    return network


def build_queries(model: str, dataset: Dataset) -> Network:
    """A small Mask2Former, or MPVSS on top of it, in which only the layers of MPVSS train."""
    torch.manual_seed(0)
    sizes = {**MASK_SIZES, "num_classes": len(dataset.classes)}
    network: Mask2Former
    if model == "mask2former":
        network = Mask2Former(Mask2FormerConfig(**sizes))
    else:
        network = MPVSS(MPVSSConfig(**sizes, motion=MOTION))
        freeze_detector(network)
    network.classes = tuple(
        ClassInfo(index, entry.name, entry.color) for index, entry in enumerate(dataset.classes)
    )
    return network


def reference_recipe(model: str, init: str, *, steps: int, lr: float) -> Recipe:
    """Doubled frames, as for the street sample."""
    config = TrainConfig(
        network=NetworkConfig(model=model, encoder="mit_b0", embed_dim=64, drop_path=0.0),
        clips=ClipConfig(
            offsets=(*REFERENCES, 0), batch=1, crop=(256, 512), scale=(2, 2.25), photometric=False
        ),
        steps=steps,
        lr=lr,
        head_lr=1.0,
        warmup=4,
        clip_norm=1.0,
        auxiliary=0.1,
        ema=0.9,
        precision="bf16",
    )
    return Recipe(lambda dataset: build_reference(model, dataset), config, init)


def query_recipe(
    model: str, init: str | None, *, steps: int, batch: int, offsets: tuple[int, ...]
) -> Recipe:
    """Unchanged frames of 128x256."""
    config = TrainConfig(
        network=NetworkConfig(model=model, encoder="resnet50"),
        clips=ClipConfig(
            offsets=offsets, batch=batch, crop=(128, 256), scale=(1, 1.1), photometric=False
        ),
        steps=steps,
        lr=1e-3,
        head_lr=1.0,
        warmup=8,
        clip_norm=1.0,
        ema=0.9,
    )
    return Recipe(lambda dataset: build_queries(model, dataset), config, init)


RECIPES = {
    "cffm": reference_recipe("cffm", "trunk", steps=30, lr=2e-3),
    "cffm++": reference_recipe("cffm++", "cffm", steps=15, lr=2e-3),
    "mrcfa": reference_recipe("mrcfa", "trunk", steps=30, lr=2e-3),
    "mask2former": query_recipe("mask2former", None, steps=80, batch=4, offsets=(0,)),
    "mpvss": query_recipe("mpvss", "mask2former", steps=30, batch=1, offsets=(-4, -3, -2, -1, 0)),
}


def write_trunk(path: Path, dataset: Dataset) -> None:
    """The street sample's encoder, decoder and per-frame classifier, as a SegFormer checkpoint."""
    config = NetworkConfig(model="segformer", encoder="mit_b0", embed_dim=64)
    network = build_network(config, dataset.classes, seed=0)
    start_from(network, STREET)
    save_weights(network, path, license=LICENSE, size=(256, 512), half=True)


def train_one(
    name: str, folder: Path, dataset: Dataset, recipe: Recipe, options: RunOptions
) -> Path:
    """Train a network, or resume its training; the folder contains those that it starts from."""
    home = RunFolder(folder / name)
    if home.weights.is_file():
        return home.weights
    network = recipe.build(dataset)
    if recipe.init == "trunk":
        start_from(network, folder / "trunk.safetensors")
    elif recipe.init is not None:
        start_from(network, RunFolder(folder / recipe.init).weights)
    config = recipe.config
    if name in ("cffm", "mrcfa"):
        config = replace(config, class_weights=log_weights(dataset))
    resume = home.last.is_file()
    home.start(config.as_json(), resume=resume)
    report = train(network, dataset, config, home, replace(options, resume=resume))
    if report.weights is None:
        raise SystemExit(f"{name}: stopped after step {report.step}; run the command again")
    return report.weights


def log_weights(dataset: Dataset) -> tuple[float, ...]:
    """Class weights 1 / ln(1.1 + frequency)."""
    counts = count_classes(dataset, ignore_index=255)
    share = counts / counts.sum()
    return tuple(float(w) for w in np.round(1 / np.log(1.1 + share), 4))


def committed_path(name: str, folder: Path = COMMITTED) -> Path:
    """The file with the weights that a network adds to the street sample's encoder."""
    return folder / f"{name.replace('++', '_plus')}.safetensors"


def commit(weights: Path, path: Path) -> None:
    """Save the weights that a checkpoint adds to the street sample's encoder."""
    base = load_file(STREET)
    added = {
        name: value
        for name, value in load_file(weights).items()
        if not (name in base and name.startswith(BACKBONE) and torch.equal(value, base[name]))
    }
    with safe_open(weights, "pt") as file:  # type: ignore[no-untyped-call]
        metadata = file.metadata()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(added, path, metadata=metadata)


def join(committed: Path, path: Path) -> Path:
    """The checkpoint of which ``commit`` saved a part."""
    weights = load_file(committed)
    if not any(name.startswith(BACKBONE) for name in weights):
        base = load_file(STREET)
        weights |= {name: base[name] for name in base if name.startswith(BACKBONE)}
    with safe_open(committed, "pt") as file:  # type: ignore[no-untyped-call]
        metadata = file.metadata()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata=metadata)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--only", choices=RECIPES, help="train this one alone")
    parser.add_argument("--steps", type=int, help="steps of each, instead of its own")
    parser.add_argument("--batch", type=int, help="clips a step, instead of its own")
    parser.add_argument("--until", type=float, help="see streamseg train")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument(
        "--commit", type=Path, help="folder for the heads, such as samples/families"
    )
    arguments = parser.parse_args()
    if arguments.only is None:
        for name in RECIPES:  # each in its own process: a process has one precision
            subprocess.run([sys.executable, *sys.argv, "--only", name], check=True)
        return
    torch.set_num_threads(1)
    address = f"synthetic:street?size=128x256&scenes={arguments.scenes}&frames=24"
    drawn = open_dataset(address, "train")
    dataset = cache_frames(drawn, arguments.out / "cache", workers=arguments.workers)
    write_trunk(arguments.out / "trunk.safetensors", dataset)
    name, recipe = arguments.only, RECIPES[arguments.only]
    config = recipe.config
    if arguments.steps:
        config = replace(config, steps=arguments.steps)
    if arguments.batch:
        config = replace(config, clips=replace(config.clips, batch=arguments.batch))
    options = RunOptions(
        device=arguments.device,
        save_every=10 if arguments.device == "cpu" else 1000,
        license=LICENSE,
        half=True,
        silence_absent=True,
        workers=arguments.workers,
        until=arguments.until,
    )
    recipe = replace(recipe, config=config)
    weights = train_one(name, arguments.out, dataset, recipe, options)
    if name in HEADS and arguments.commit is not None:
        commit(weights, committed_path(name, arguments.commit))
    print(f"{name}: {weights}", flush=True)


if __name__ == "__main__":
    main()

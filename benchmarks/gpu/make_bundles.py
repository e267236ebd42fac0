"""Bundles for the GPU script: every family, small, and samples. Needs our version of PyTorch.

    python benchmarks/gpu/make_bundles.py build/gpu_bundles

Small models have seeded weights, which is enough to compare backends. They are made in float32 and
float16. Only the street sample and TV3S-B1 at 512x1024 are timed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from streamseg.export import export_bundle  # noqa: E402
from streamseg.export.checkpoint import load_checkpoint  # noqa: E402
from streamseg.export.models.encoder import ENCODER_PRESETS  # noqa: E402
from streamseg.export.models.mamba import BlocksConfig  # noqa: E402
from streamseg.export.models.tv3s import TV3S, TV3SConfig  # noqa: E402
from streamseg.export.step import StepModel  # noqa: E402
from tests.export.tiny import FAMILIES, SIZE, build  # noqa: E402

PRECISIONS = ("fp32", "fp16")


def seeded_b1() -> TV3S:
    """TV3S on MiT-B1 with 19 classes."""
    torch.manual_seed(0)
    blocks = BlocksConfig(256, d_inner=512, dt_rank=16)
    return TV3S(TV3SConfig(ENCODER_PRESETS["mit_b1"], blocks, 19)).eval()


def write(model: StepModel, name: str, folder: Path, size: tuple[int, int], precision: str) -> None:
    path = folder / f"{name}-{precision}"
    if not path.exists():
        print(f"exporting {path.name} ...", flush=True)
        export_bundle(model, path, size=size, precision=precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", help="families, instead of everything")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for family in arguments.only or FAMILIES:
        for precision in PRECISIONS:
            write(build(family), f"small-{family}", arguments.out, SIZE, precision)
    if arguments.only:
        return
    street = load_checkpoint(ROOT / "samples/street/street.safetensors")
    for precision in PRECISIONS:
        write(street, "street", arguments.out, (256, 512), precision)
    write(seeded_b1(), "b1", arguments.out, (512, 1024), "fp16")


if __name__ == "__main__":
    main()

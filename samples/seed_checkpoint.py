"""Write a TV3S checkpoint with seeded, untrained weights: it shows that everything runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from streamseg.export import save_checkpoint
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig

CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "person", "car", "bicycle")
WINDOW, SHIFT = 10, 5


def build_seeded(seed: int) -> TV3S:
    """MiT-B0 with narrow temporal blocks and initial weights of ``seed``."""
    torch.manual_seed(seed)
    blocks = BlocksConfig(
        embed_dim=64, d_inner=128, dt_rank=4, window=(WINDOW, WINDOW), shift=(SHIFT, SHIFT)
    )
    return TV3S(TV3SConfig(ENCODER_PRESETS["mit_b0"], blocks, len(CLASSES)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="e.g. out/seeded.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"CLASSES": json.dumps(CLASSES), "license": "Apache-2.0"}
    save_checkpoint(build_seeded(arguments.seed), arguments.target, metadata=metadata)
    print(f"{arguments.target}: TV3S MiT-B0, seed {arguments.seed}, window {WINDOW}, shift {SHIFT}")
    print(
        "These weights are UNTRAINED: the demo's colours mean nothing, its speed and plumbing do."
    )


if __name__ == "__main__":
    main()

"""Networks and clips that benchmarks score: the street sample, and a CamVid network if given."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamseg.export import load_checkpoint
from streamseg.export.step import StepModel

STREET = Path(__file__).resolve().parents[1] / "samples/street/street.safetensors"
STREETS = "synthetic:street?size=256x512&scenes=2&frames=40"
STREET_SIZE, CAMVID_SIZE = (256, 512), (352, 480)
STREET_CLIPS = "drawn streets, 2 of 40 frames"
CAMVID_CLIPS = "CamVid val, 15 frames a second"


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Options that name CamVid's root and a checkpoint with its settings."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    return parser


def load_street() -> StepModel:
    """The street sample."""
    return load_checkpoint(STREET)


def load_camvid(arguments: argparse.Namespace) -> StepModel:
    """The network of ``--checkpoint``."""
    settings = dict(text.split("=", 1) for text in arguments.set)
    return load_checkpoint(arguments.checkpoint, settings=settings)

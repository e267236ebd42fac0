"""The bundle of samples/smoothing_bundle.py, whose state shows in its labels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "samples" / "smoothing_bundle.py"


def write_smoothing_bundle(folder: Path, size: tuple[int, int]) -> Path:
    spec = importlib.util.spec_from_file_location("smoothing_bundle", SAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bundle: Path = module.write_smoothing_bundle(folder, size)
    return bundle

"""Fixtures of the tests of INT8: those of evaluation, footage, its ranges, and the step graph."""

from __future__ import annotations

import onnx
import pytest

from streamseg.calibration.observation import observe
from streamseg.calibration.replay import choose_segments
from streamseg.evaluation.datasets import open_dataset
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.bundle.bundle import read_bundle
from tests.evaluation.conftest import bundle, camvid
from tests.evaluation.trees import write_image

__all__ = ["bundle", "camvid"]
LOWERED = BackendOptions(native=False)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Two folders of smooth frames of another size than the network's."""
    root = tmp_path_factory.mktemp("footage")
    for clip in range(2):
        for i in range(6):
            write_image(root / f"clip{clip}" / f"{i}.png", 10 * clip + i // 3, (24, 40))
    return root


@pytest.fixture(scope="module")
def ranges(bundle, footage):
    segments = choose_segments(open_dataset(f"footage:{footage}"), count=2, length=6, seed=0)
    return observe(read_bundle(bundle), segments, LOWERED)


@pytest.fixture(scope="module")
def graph(bundle):
    return onnx.load_from_string(read_bundle(bundle).graphs["step"])

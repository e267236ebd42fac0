"""Every family through the C++ runtime: the labels of Python, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamseg.plugins.loader import find_library
from tests.conftest import TinyBundle
from tests.cpp.conftest import REQUIREMENTS, RUNTIME, Build, run
from tests.families import record

pytest.importorskip("torch", reason="exports networks")
from tests.export.tiny import FAMILIES

pytestmark = REQUIREMENTS
# Untrained, these give one class everywhere, so that their equal labels say less.
CONSTANT = ("segformer-convolutional", "mask2former", "mpvss")


@pytest.mark.parametrize("family", FAMILIES)
def test_command_gives_the_labels_of_python(
    build: Build, tiny_bundle: TinyBundle, family: str, tmp_path: Path
) -> None:
    found = record(tiny_bundle(family, "fp32"), tmp_path, native=True)
    height, width = found.labels.shape[1:]
    options = ["--size", f"{height}x{width}", "--threads", "1", "--operators", find_library()]
    options += ["--onnxruntime", RUNTIME]
    command = [build() / "streamseg-run", found.bundle, *options]
    labels = run(*command, input=found.frames.tobytes()).stdout
    np.testing.assert_array_equal(
        np.frombuffer(labels, np.uint8).reshape(found.labels.shape), found.labels
    )
    assert len(np.unique(found.labels)) > 1 or family in CONSTANT

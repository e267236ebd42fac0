"""What all tests share: the folder of fixtures, the marker that skips without it, the summary."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from tests.summary import write_summary

ROOT = Path(__file__).resolve().parent.parent
# Which backend is faster depends on the hour; tests of the choice take this away.
os.environ.setdefault("STREAMSEG_CPU_BACKEND", "onnxruntime")
SHARED = Path(os.environ.get("STREAMSEG_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if (SHARED / "golden").is_dir():
        return
    skip = pytest.mark.skip(reason=f"no fixtures at {SHARED}; set STREAMSEG_SHARED")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write_summary(terminalreporter)


NO_OPENVINO = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (extra dev)"
)
# Ways to open a bundle on the CPU in float32.
CPU_OPENINGS: list[Any] = [
    pytest.param({"backend": "onnxruntime", "native": False}, id="lowering"),
    pytest.param({"backend": "onnxruntime", "native": True}, id="native"),
    pytest.param(
        {"backend": "openvino", "precision": "f32", "native": False},
        id="openvino-lowering",
        marks=NO_OPENVINO,
    ),
    pytest.param(
        {"backend": "openvino", "precision": "f32", "native": True},
        id="openvino-native",
        marks=NO_OPENVINO,
    ),
]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures, footage and checkpoints; use with the ``data`` marker."""
    return SHARED

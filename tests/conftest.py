"""What all tests share: the folder of fixtures, the marker that skips without it, the summary."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.summary import write_summary

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures, footage and checkpoints; use with the ``data`` marker."""
    return SHARED

"""Every test has a launcher state of its own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def fresh_launcher():
    # accelerate keeps device and precision for the life of a process.
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)

"""Fixtures of the operators' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamseg.errors import PluginNotFound
from streamseg.plugins.native import NativeOps, load

try:
    LEVELS = load().levels
except PluginNotFound:
    LEVELS = ()


@pytest.fixture(params=LEVELS)
def ops(request: pytest.FixtureRequest) -> Iterator[NativeOps]:
    """The native operators at every instruction set of this machine; none without the library."""
    library = load()
    library.select_level(request.param)
    yield library
    library.select_level(None)

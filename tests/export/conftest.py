"""Bundles of the tiny models, exported once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from streamseg.export import export_bundle
from tests.export import tiny

TinyBundle = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """Function of family and precision."""
    folder = tmp_path_factory.mktemp("tiny")

    def export(family: str, precision: str) -> Path:
        path = folder / f"{family}-{precision}"
        if not path.exists():
            export_bundle(
                tiny.build(family), path, size=tiny.SIZE, logits=True, precision=precision
            )
        return path

    return export

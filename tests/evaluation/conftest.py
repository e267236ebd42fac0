"""What several test modules share: exporting takes seconds, so it is done once."""

from __future__ import annotations

import pytest

from tests.evaluation.models import write_bundle
from tests.evaluation.trees import make_camvid


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A tiny float32 bundle with logits; not to be modified."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def camvid(tmp_path_factory):
    """A tiny CamVid tree; not to be modified."""
    return make_camvid(tmp_path_factory.mktemp("camvid"))

"""SHA-256 in C++, with and without the processor's instructions, against hashlib."""

from __future__ import annotations

import hashlib
import random

import pytest

from tests.cpp.conftest import REQUIREMENTS, Build, run

pytestmark = REQUIREMENTS


@pytest.mark.parametrize("arguments", [[], ["portable"]], ids=["processor", "portable"])
def test_digests_equal_those_of_hashlib(build: Build, arguments: list[str]) -> None:
    rng = random.Random(5)
    for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000, 100_001):
        content = rng.randbytes(size)
        found = run(build() / "digest", *arguments, input=content).stdout.decode().strip()
        assert found == f"sha256:{hashlib.sha256(content).hexdigest()}", size

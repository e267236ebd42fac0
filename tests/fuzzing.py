"""Seeded inputs for the tests that damage files: the same ones in every run."""

from __future__ import annotations

import os
import random
from pathlib import Path

# `make verify-long` sets a larger number.
_SCALE = int(os.environ.get("STREAMSEG_FUZZ_SCALE", "1"))
_TELLING = (0, 1, 0x6A, 0x70, 0x7F, 0x80, 0xFF, *b'"{}[],:\\%#&=/@')


def inputs(number: int) -> int:
    """How many inputs a test tries: ``number``, or a multiple of it in the long version."""
    total = scaled(number)
    if place := os.environ.get("STREAMSEG_FUZZ_COUNT"):
        with Path(place).open("a", encoding="utf-8") as count:
            count.write(f"{total}\n")
    return total


def scaled(number: int) -> int:
    """A number that grows with the inputs, such as how many of them must be accepted."""
    return number * _SCALE


def damage(content: bytes, rng: random.Random) -> bytes:
    """Flip, set, insert, remove, repeat or cut bytes in one to four places."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        action = rng.randrange(6)
        if action == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif action == 1 and at < len(data):
            data[at] = rng.choice(_TELLING)
        elif action == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif action == 3:
            del data[at : at + rng.randint(1, 9)]
        elif action == 4:
            data[at:at] = data[at : at + rng.randint(1, 40)]
        elif rng.randrange(8) == 0:
            del data[at:]
    return bytes(data)

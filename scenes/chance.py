"""Keyed random numbers: every draw of a scene is a function of (seed, stream, index) alone."""

from enum import IntEnum

import numpy as np

_INDEX_BITS = 48


class RandomStream(IntEnum):
    """What a generator decides; two streams never share numbers."""

    TEXTURE = 0
    ROAD = 1
    PLOT_LEFT = 2
    PLOT_RIGHT = 3
    KERB_LEFT = 4
    KERB_RIGHT = 5
    CROSSING = 6
    WEATHER = 7
    SENSOR = 8
    SKYLINE = 9
    DRIVE = 10
    LEAD = 11
    LANE = 16  # lane i uses LANE + i


def make_generator(seed: int, stream: int, index: int = 0) -> np.random.Generator:
    """A counter-based generator for one decision.

    Args:
        seed: the scene's seed, 0 to 2**63 - 1.
        stream: see `RandomStream`.
        index: block, slot or frame; negative ones are fine (a lane that flows backwards).
    """
    word = (stream << _INDEX_BITS) | (index & ((1 << _INDEX_BITS) - 1))
    return np.random.Generator(np.random.Philox(key=[seed, word]))

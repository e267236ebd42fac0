"""The time at which a grid of blocks finishes: a model of the scheduling, not a measurement.

Multiprocessors take blocks in order, one each in turn, then any multiprocessor with room. Each of
the four schedulers of a multiprocessor shares its time among its warps. The warps of a block are
assigned to the schedulers with the fewest warps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SCHEDULERS = 4


@dataclass
class Warp:
    """Remaining rounds of its loop, and the number of running warps of its block."""

    rounds: float
    block: list[int]


@dataclass
class Multiprocessor:
    """Warps by scheduler, the clock up to which they have run, and the blocks that are resident.

    Attributes:
        clocks: warps of a scheduler -> clocks in which each of them does a round.
    """

    clocks: Callable[[int], float]
    schedulers: list[list[Warp]] = field(default_factory=lambda: [[] for _ in range(SCHEDULERS)])
    clock: float = 0.0
    blocks: int = 0

    def take(self, rounds: float, warps: int) -> None:
        """Start a block."""
        block = [warps]
        for _ in range(warps):
            min(self.schedulers, key=len).append(Warp(rounds, block))
        self.blocks += 1

    def next_end(self) -> float:
        """The clock at which the next warp finishes."""
        return min(
            self.clock + min(warp.rounds for warp in warps) * self.clocks(len(warps))
            for warps in self.schedulers
            if warps
        )

    def run_until(self, clock: float) -> None:
        """Run every warp; remove finished warps, and blocks without warps."""
        for number, warps in enumerate(self.schedulers):
            if not warps:
                continue
            done = (clock - self.clock) / self.clocks(len(warps))
            for warp in warps:
                warp.rounds -= done
                if warp.rounds < 1e-9:
                    warp.block[0] -= 1
                    self.blocks -= warp.block[0] == 0
            self.schedulers[number] = [warp for warp in warps if warp.rounds >= 1e-9]
        self.clock = clock


def clocks_of_grid(
    blocks: Sequence[float],
    clocks: Callable[[int], float],
    *,
    multiprocessors: int,
    resident: int,
    warps: int,
) -> float:
    """Clocks until every block has finished.

    Args:
        blocks: rounds of each, in the order in which they are scheduled.
        clocks: warps of a scheduler -> clocks in which each of them does a round.
        multiprocessors: how many there are.
        resident: blocks that fit into one.
        warps: of a block.
    """
    waiting = deque(blocks)
    chips = [Multiprocessor(clocks) for _ in range(min(multiprocessors, len(blocks)))]
    for _ in range(resident):
        for chip in chips:
            if waiting:
                chip.take(waiting.popleft(), warps)
    ends = [chip.next_end() for chip in chips]
    last = 0.0
    while any(end < float("inf") for end in ends):
        number = min(range(len(ends)), key=ends.__getitem__)
        chip, last = chips[number], ends[number]
        chip.run_until(last)
        while waiting and chip.blocks < resident:
            chip.take(waiting.popleft(), warps)
        ends[number] = chip.next_end() if chip.blocks else float("inf")
    return last

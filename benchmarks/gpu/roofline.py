"""Lower bounds of a TV3S-B1 frame at 512x1024 on Jetson Orin boards: estimates, not measured.

A bound is work over peak rate, for each unit alone. Rates: tensor cores 1024 float16 multiply-adds
a clock and multiprocessor (85 dense INT8 TOPS of AGX Orin's GPU, halved), special-function units 16
results a clock and multiprocessor, memory as NVIDIA's data sheets give it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

TENSOR_FLOP_PER_CLOCK = 2 * 1024
SPECIAL_PER_CLOCK = 16


@dataclass(frozen=True)
class Board:
    """GPU of a board: multiprocessors, clock in GHz at the highest power mode, GB/s."""

    name: str
    multiprocessors: int
    clock: float
    bandwidth: float


BOARDS = (
    Board("Orin Nano 8GB (Super)", 8, 1.020, 102.4),
    Board("Orin NX 16GB (Super)", 8, 1.173, 102.4),
    Board("AGX Orin 64GB", 16, 1.300, 204.8),
)


@dataclass(frozen=True)
class Work:
    """What one frame takes.

    Attributes:
        gemm: GFLOP of encoder (50), decoder (20) and temporal blocks (76).
        special: millions of exponentials: 8 layers x 11200 tokens x 512 channels x 16 states in the
            scans, and four a token and channel in softplus, gate and convolution.
        maps: MB that the two operators read and write in float16 with state in float32.
    """

    gemm: float = 50 + 20 + 76
    special: float = 8 * 11200 * 512 * (16 + 4) / 1e6
    maps: float = 8 * (11200 * 512 * 2 * 6 + 11200 * 16 * 2 * 2 + 28 * 512 * 19 * 4 * 2) / 1e6


def bounds(board: Board, work: Work) -> dict[str, float]:
    """Milliseconds of a frame for each unit alone."""
    clocks = board.multiprocessors * board.clock * 1e9
    return {
        "GEMMs (tensor cores)": work.gemm * 1e9 / (clocks * TENSOR_FLOP_PER_CLOCK) * 1e3,
        "exponentials (special-function units)": work.special
        * 1e6
        / (clocks * SPECIAL_PER_CLOCK)
        * 1e3,
        "operators' memory traffic": work.maps / board.bandwidth,
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    work = Work()
    found = {board.name: bounds(board, work) for board in BOARDS}
    if parser.parse_args().json:
        print(json.dumps({"work": asdict(work), "milliseconds": found}, indent=2))
        return
    for name, parts in found.items():
        print(name)
        for unit, milliseconds in parts.items():
            print(f"  {unit:40} {milliseconds:6.2f} ms")
        print(f"  {'one after the other':40} {sum(parts.values()):6.2f} ms")


if __name__ == "__main__":
    main()

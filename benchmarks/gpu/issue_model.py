"""The time that warps of one scheduler need for a loop of machine code: a model, not measured.

Every instruction of sm_80 and newer encodes how long its warp waits before the next one, and which
of six barriers it sets and waits for. The model issues one instruction per clock, from the next
warp that is ready, and at most at the rate of the instruction's unit. It assumes the latencies and
rates below, that loads from memory take 900 clocks, and that the four schedulers of a
multiprocessor share its load and store unit evenly.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field

LATENCY = {"LDS": 30, "MUFU": 24, "LDG": 900, "STS": 20, "SHFL": 25, "LDGSTS": 30, "STG": 20}
HALF_RATE = frozenset(
    (
        "FSETP",
        "FSEL",
        "FMNMX",
        "IADD3",
        "LOP3",
        "SEL",
        "LEA",
        "SHF",
        "PRMT",
        "ISETP",
        "MOV",
        "VIADD",
        "IABS",
        "PLOP3",
        "HADD2",
        "F2FP",
    )
)
SHARED_UNIT = frozenset(["LDS", "STS", "LDG", "STG", "SHFL", "LDGSTS"])


@dataclass(frozen=True)
class Instruction:
    """Text, clocks to the next, barriers set when it is done and when it has read, waited for."""

    text: str
    stall: int
    written: int
    read: int
    waits: tuple[int, ...]

    @property
    def name(self) -> str:
        """FFMA of ``@!P0 FFMA.FTZ R1, ...``."""
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0].split(".")[0]

    @property
    def unit(self) -> tuple[str, int]:
        """The unit that executes it, and the number of clocks for which the unit is busy."""
        if self.name in HALF_RATE:
            return "integer", 2
        if self.name in ("MUFU", "I2F", "F2I"):
            return "special", 8
        if self.name in SHARED_UNIT:
            wide = ".128" in self.text or self.name in ("LDG", "STG")
            return "memory", 8 if wide else 4
        return ("multiply", 2) if self.name == "IMAD" else ("", 1)


@dataclass
class Code:
    """Instructions of a kernel, and the targets of its labels."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of every loop, the longest first."""
        found = []
        for end in range(len(self.instructions)):
            start = self.target(end)
            if start is not None and start < end:
                found.append((start, end))
        return sorted(found, key=lambda loop: loop[0] - loop[1])

    def target(self, index: int) -> int | None:
        """The target of the branch at ``index``; None for any other instruction."""
        branch = re.search(r"BRA.*`\((\.L\w+)\)", self.instructions[index].text)
        return self.labels.get(branch.group(1)) if branch else None


def read_code(nvdisasm: str, cubin: str) -> dict[str, Code]:
    """Kernels of a file by their mangled names."""
    listing = subprocess.run(
        [nvdisasm, "-c", "-hex", cubin], capture_output=True, text=True, check=True
    ).stdout
    kernels: dict[str, Code] = {}
    code, text = Code(), ""
    for line in listing.splitlines():
        if start := re.match(r"\.text\.(\S+):", line):
            code = kernels.setdefault(start.group(1), Code())
        elif label := re.match(r"(\.L\w+):", line):
            code.labels[label.group(1)] = len(code.instructions)
        elif first := re.match(r"\s+/\*[0-9a-f]{4,5}\*/\s+(.*?)\s*;\s+/\* 0x", line):
            text = first.group(1)
        elif (second := re.match(r"\s+/\* (0x[0-9a-f]+) \*/", line)) and text:
            code.instructions.append(decode(text, int(second.group(1), 16)))
            text = ""
    return kernels


def decode(text: str, control: int) -> Instruction:
    """An instruction of its text and the upper half of its encoding."""
    waits = tuple(i for i in range(6) if control >> (52 + i) & 1)
    return Instruction(text, control >> 41 & 15, control >> 46 & 7, control >> 49 & 7, waits)


def follow_loop(code: Code, trips: int) -> list[Instruction]:
    """One round of the longest loop, inner loops ``trips`` times.

    Conditional forward branches are not taken, except around integer divisions, which few rounds
    need.
    """
    start, end = code.loops()[0]
    path, index, taken = [], start, defaultdict[int, int](int)
    while index <= end:
        instruction, target = code.instructions[index], code.target(index)
        path.append(instruction)
        index += 1
        if target is None or not start <= target <= end or index > end:
            continue
        here = index - 1
        if target <= here:
            taken[here] = (taken[here] + 1) % trips
            index = target if taken[here] else index
        elif not instruction.text.startswith("@") or any(
            skipped.name == "I2F" for skipped in code.instructions[index:target]
        ):
            index = target
    return path


@dataclass
class Warp:
    """The position of a warp, and the clocks from which it and its barriers are ready."""

    ready: int
    at: int = 0
    barriers: list[int] = field(default_factory=lambda: [0] * 8)
    rounds: list[int] = field(default_factory=list)


def clocks_a_round(path: list[Instruction], warps: int, rounds: int = 4) -> float:
    """Clocks of one scheduler for one round of a path by each of its warps."""
    running = [Warp(37 * i) for i in range(warps)]
    free: dict[str, int] = defaultdict(int)
    clock, turn = 0, 0
    while waiting := [w for w in running if len(w.rounds) < rounds]:
        waiting = waiting[turn % len(waiting) :] + waiting[: turn % len(waiting)]
        times = [earliest(warp, path[warp.at], free) for warp in waiting]
        clock = max(clock, min(times))
        issue(next(w for w, t in zip(waiting, times, strict=True) if t <= clock), path, free, clock)
        clock, turn = clock + 1, turn + 1
    return sum(w.rounds[-1] - w.rounds[0] for w in running) / (rounds - 1) / warps


def earliest(warp: Warp, instruction: Instruction, free: dict[str, int]) -> int:
    """The first clock at which a warp's next instruction may issue."""
    barriers = [warp.barriers[i] for i in instruction.waits]
    return max([warp.ready, free[instruction.unit[0]], *barriers])


def issue(warp: Warp, path: list[Instruction], free: dict[str, int], clock: int) -> None:
    """Issue a warp's next instruction."""
    instruction = path[warp.at]
    unit, busy = instruction.unit
    if unit:
        free[unit] = clock + busy
    latency = LATENCY.get(instruction.name, 10)
    if instruction.written < 7:
        warp.barriers[instruction.written] = clock + latency
    if instruction.read < 7:
        warp.barriers[instruction.read] = clock + min(latency, 20)
    warp.ready = clock + max(1, instruction.stall)
    warp.at = (warp.at + 1) % len(path)
    if warp.at == 0:
        warp.rounds.append(clock)

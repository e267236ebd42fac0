"""Instructions, registers and occupancy of the CUDA kernels, and predicted times.

Compiles the kernels (nvcc), reads the machine code (nvdisasm, from the package
``nvidia-cuda-nvdisasm`` or on PATH), and needs no GPU. Times are predictions: the model is in
``issue_model.py`` and ``block_model.py``. The layer is TV3S-B1's at 512x1024: a map of 80 x 140
tokens, 512 channels, 16 states, in windows of 20 x 20, 28 of them on the plain grid; the shifted
grid cuts 10 tokens in and has 40 cells of 100 to 400 tokens. For the kernels that were measured on
an H200 (benchmarks/results/gpu/h200-2026-11-27) the measured time is ``MEASURED`` times the
time of the model; ``--source`` takes their file, from commit 60b4b1d.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

from block_model import clocks_of_grid
from issue_model import Code, clocks_a_round, follow_loop, read_code

ROOT = Path(__file__).resolve().parents[2]
MAP, WINDOW = (80, 140), 20
TOKENS, CHANNELS, STATES = math.prod(MAP), 512, 16
OFFSETS = {"plain": 0, "shifted": WINDOW // 2}
GROUP = 16  # tokens that a kernel computes together
# Of the model's time, for the kernels of 60b4b1d: least and most.
MEASURED = {"plain": (0.89, 1.33), "shifted": (1.00, 1.47)}


@dataclass(frozen=True)
class Gpu:
    """The limits of a kernel: multiprocessors, GHz, and their warps, blocks and bytes."""

    name: str
    architecture: int
    multiprocessors: int
    clock: float
    warps: int
    blocks: int
    shared: int


GPUS = (
    Gpu("H200", 90, 132, 1.98, 64, 32, 227 * 1024),
    Gpu("AGX Orin 64GB", 87, 16, 1.30, 48, 16, 163 * 1024),
)


@dataclass(frozen=True)
class Scan:
    """A scan kernel: part of its mangled name, and the work of one round of its longest loop."""

    name: str
    mangled: str
    tokens: int
    inner: int  # rounds of the loop inside
    split: int  # threads of a channel
    threads: int = 64


SCANS = (
    Scan("scan, float32", "selective_scan_kernelIfLi4ELb1E", 16, 1, 4),
    Scan("scan, float16", "selective_scan_kernelI6__halfLi4ELb1E", 32, 2, 4),
    # As measured on the H200.
    Scan("scan at 60b4b1d, float32", "selective_scan_kernelIfLi4ELi4E", 32, 8, 4),
    Scan("scan at 60b4b1d, float16", "selective_scan_kernelI6__halfLi4ELi4E", 32, 8, 4),
    Scan("scan at 60b4b1d, one thread, float32", "selective_scan_kernelIfLi1ELi16E", 32, 32, 1),
    Scan("scan at 60b4b1d, one thread, float16", "selective_scan_kernelI6__halfLi1E", 32, 32, 1),
)
# Mangled name, threads of a block, values of a thread.
CONVS = {
    "conv, float32": ("causal_conv_fours_kernelIf", 128, 64),
    "conv, float16": ("causal_conv_fours_kernelI6__half", 128, 64),
    "conv at 60b4b1d, float32": ("causal_conv_kernelIfLi4E", 128, 16),
    "conv at 60b4b1d, float16": ("causal_conv_kernelI6__halfLi4E", 128, 16),
}


@dataclass(frozen=True)
class Build:
    """Output of the compiler and the disassembler for one architecture."""

    report: str
    code: dict[str, Code]

    def find(self, part: str) -> tuple[Code, dict[str, int]] | None:
        """Code, registers, shared memory and spilled bytes of the kernel with this name."""
        for section in self.report.split("Compiling entry function ")[1:]:
            name = section.split("'")[1]
            if part in name:
                return self.code[name], {
                    "registers": number(r"Used (\d+) registers", section),
                    "shared bytes": number(r"(\d+) bytes smem", section),
                    "spilled bytes": number(r"(\d+) bytes spill stores", section),
                }
        return None


def number(pattern: str, text: str) -> int:
    """The number that a pattern finds, or 0."""
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def compile_kernels(architecture: int, source: Path) -> Build:
    """The kernels of ``cuda_api.cu`` for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/kernels.cubin"
        done = subprocess.run(
            ["nvcc", "-O3", "-std=c++17", f"-arch=sm_{architecture}", "-Xptxas=-v", "-cubin"]
            + [f"-I{source.parent}", f"-I{source.parents[1] / 'src'}", '-DSTREAMSEG_VERSION=""']
            + ['-DSTREAMSEG_CUDA_TARGETS=""', "-o", cubin, str(source)],
            capture_output=True,
            text=True,
            check=True,
        )
        return Build(done.stdout + done.stderr, read_code(find_nvdisasm(), cubin))


def find_nvdisasm() -> str:
    """Path of nvdisasm.

    Raises:
        SystemExit: it is neither on PATH nor installed as a package.
    """
    found = shutil.which("nvdisasm")
    if found is None:
        folders = [Path(folder) / "nvidia" for folder in sys.path]
        found = next((str(p) for f in folders for p in f.glob("cu*/bin/nvdisasm")), None)
    if found is None:
        raise SystemExit("nvdisasm was not found; run: pip install nvidia-cuda-nvdisasm")
    return found


def warps_that_fit(resources: dict[str, int], gpu: Gpu, threads: int) -> int:
    """Of a multiprocessor: registers, shared memory and its own limits allow these."""
    warps = threads // 32
    registers = math.ceil(resources["registers"] * 32 / 256) * 256 * warps
    shared = resources["shared bytes"] + 1024
    return warps * min(65536 // registers, gpu.shared // shared, gpu.blocks, gpu.warps // warps)


def predict_scan(scan: Scan, build: Build, gpu: Gpu) -> dict[str, float] | None:
    """Figures of one scan kernel, if the source has it."""
    found = build.find(scan.mangled)
    if found is None:
        return None
    code, resources = found
    path = follow_loop(code, scan.inner)
    warps = scan.threads // 32
    fit = warps_that_fit(resources, gpu, scan.threads)
    clocks = functools.cache(lambda together: clocks_a_round(path, together))
    figures: dict[str, float] = {
        **resources,
        "instructions a state": round(len(path) / (scan.tokens * STATES / scan.split), 2),
        "warps of a multiprocessor that fit": fit,
    }
    for grid, offset in OFFSETS.items():
        # Blocks are scheduled cell by cell for each group of channels.
        rounds = [math.ceil(cell / GROUP) * GROUP / scan.tokens for cell in cells(offset)]
        blocks = rounds * math.ceil(CHANNELS * scan.split / scan.threads)
        total = clocks_of_grid(
            blocks,
            clocks,
            multiprocessors=gpu.multiprocessors,
            resident=fit // warps,
            warps=warps,
        )
        microseconds = total / gpu.clock / 1e3
        issued = len(path) * sum(blocks) * warps / (4 * gpu.multiprocessors)
        figures |= {
            f"{grid} grid: warps": len(blocks) * warps,
            f"{grid} grid: instructions a clock": round(issued / total, 2),
            f"{grid} grid: microseconds, model": round(microseconds, 1),
            f"{grid} grid: microseconds, at least": round(microseconds * MEASURED[grid][0], 1),
            f"{grid} grid: microseconds, at most": round(microseconds * MEASURED[grid][1], 1),
        }
    return figures


def cells(offset: int) -> list[int]:
    """Tokens of each cell of the grid with this offset."""
    bands = [
        [
            stop - start
            for start, stop in pairwise([0, *range(offset or WINDOW, extent, WINDOW), extent])
        ]
        for extent in MAP
    ]
    return [height * width for height, width in product(*bands)]


def predict_conv(name: str, build: Build, gpu: Gpu) -> dict[str, float] | None:
    """Figures of one convolution, bound by issue (at most all its code) or by memory."""
    mangled, threads, values = CONVS[name]
    found = build.find(mangled)
    if found is None:
        return None
    code, resources = found
    count = len(code.instructions) / values
    issued = TOKENS * CHANNELS * count / 32 / (4 * gpu.multiprocessors)
    size = 2 if "half" in mangled else 4
    return {
        **resources,
        "instructions a value, all code": round(count, 1),
        "warps of a multiprocessor that fit": warps_that_fit(resources, gpu, threads),
        "microseconds at one instruction a clock": round(issued / gpu.clock / 1e3, 1),
        "microseconds of memory at 4.8 TB/s": round(TOKENS * CHANNELS * 2 * size / 4.8e6, 1),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT / "plugins/cuda/cuda_api.cu")
    source = parser.parse_args().source.resolve()
    out = {}
    for gpu in GPUS:
        build = compile_kernels(gpu.architecture, source)
        for scan in SCANS:
            out[f"{gpu.name}, {scan.name}"] = predict_scan(scan, build, gpu)
        if gpu.architecture == 90:
            for name in CONVS:
                out[f"{gpu.name}, {name}"] = predict_conv(name, build, gpu)
    print(json.dumps({name: found for name, found in out.items() if found}, indent=1))


if __name__ == "__main__":
    main()

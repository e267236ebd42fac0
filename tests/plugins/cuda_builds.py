"""Builds of the CUDA project for tests: the twin that runs on the CPU, and the real thing."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from streamseg import __version__

ROOT = Path(__file__).resolve().parents[2]
HEADERS = Path(os.environ.get("TENSORRT_INCLUDE", ROOT / "build/tensorrt_headers"))


def need_tensorrt_headers() -> Path:
    if not (HEADERS / "NvInferRuntime.h").is_file():
        pytest.skip(f"no TensorRT headers at {HEADERS}; run: make tensorrt-headers")
    return HEADERS


def need_nvcc() -> str:
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        pytest.skip("no nvcc on this machine")
    return found


@functools.cache
def build_twin() -> Path:
    """Folder of libstreamseg_cuda_twin.so (and the plugins, where headers are)."""
    folder = ROOT / "build/cuda_twin"
    _cmake(folder, "-DSTREAMSEG_CUDA_TWIN=ON")
    return folder


@functools.cache
def build_cuda() -> tuple[Path, str]:
    """Folder of the libraries for sm_80 and sm_87, rebuilt, and what the build printed."""
    folder = ROOT / "build/cuda_test"
    shutil.rmtree(folder, ignore_errors=True)
    nvcc = need_nvcc()
    printed = _cmake(
        folder, f"-DCMAKE_CUDA_COMPILER={nvcc}", "-DSTREAMSEG_CUDA_ARCHITECTURES=80;87"
    )
    return folder, printed


def write_records(folder: Path, *, version: str = __version__) -> None:
    """Put a record beside every library of a folder, as ``setup.py build_cuda`` does."""
    for library in folder.glob("libstreamseg_*.so"):
        sha256 = hashlib.sha256(library.read_bytes()).hexdigest()
        record = {"version": version, "sha256": sha256}
        library.with_suffix(".json").write_text(json.dumps(record))


def _cmake(folder: Path, *options: str) -> str:
    configure = ["cmake", "-S", str(ROOT / "plugins/cuda"), "-B", str(folder), *options]
    configure.append("-DSTREAMSEG_CUDA_TESTS=ON")
    steps = (
        [*configure, f"-DSTREAMSEG_TENSORRT_INCLUDE={HEADERS}"],
        ["cmake", "--build", str(folder)],
    )
    printed = ""
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        printed += done.stdout + done.stderr
        assert done.returncode == 0, printed
    return printed

"""Probes of the kernels (``tests/native/probes.h``), built for tests and benchmarks."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]


class Probes:
    """Exponential and arithmetic floor of each instruction set, and the operator table as text."""

    def __init__(self, library: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.probe_operators.restype = ctypes.c_char_p
        self._c.probe_floor.restype = ctypes.c_double
        self._c.probe_floor.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int]

    @property
    def operators(self) -> str:
        """The table of ``ops.h``, a line for every entry."""
        return str(self._c.probe_operators().decode())

    def exp(self, level: str, x: npt.NDArray[Any], *, base2: bool = False) -> npt.NDArray[Any]:
        """The kernels' own exponential, or power of two, of float32 numbers."""
        dense = np.ascontiguousarray(x, np.float32)
        out = np.empty_like(dense)
        pointers = (ctypes.c_void_p(dense.ctypes.data), ctypes.c_int64(dense.size), int(base2))
        done = self._c.probe_exp(level.encode(), *pointers, ctypes.c_void_p(out.ctypes.data))
        if done != 0:
            raise ValueError(f"instruction set '{level}' has no probes")
        return out

    def floor(self, level: str, numbers: int, *, kind: int) -> float:
        """Milliseconds of one thread for the arithmetic of ``numbers`` states, from registers.

        Kind 0: exponentials alone; 1: products and sums alone; 2: both, as the scan does them.
        """
        found = float(self._c.probe_floor(level.encode(), numbers, kind))
        if found < 0:
            raise ValueError(f"instruction set '{level}' has no probes")
        return found


@functools.cache
def build_probes() -> Probes:
    """Build the library of probes with CMake and load it; skips the test without CMake."""
    if shutil.which("cmake") is None:
        import pytest

        pytest.skip("no cmake on this machine")
    folder = ROOT / "build/native-probes"
    for step in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-DSTREAMSEG_TESTS=ON"],
        ["cmake", "--build", str(folder), "--target", "streamseg_probes"],
    ):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return Probes(folder / "libstreamseg_probes.so")

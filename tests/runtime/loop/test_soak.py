"""benchmarks/soak.py in short; the full one is ``make verify-long``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.smoothing import write_smoothing_bundle

SOAK = Path(__file__).parents[3] / "benchmarks" / "soak.py"


def soak(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SOAK), str(bundle), "--print-only", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smoothing_bundle(tmp_path_factory.mktemp("soak") / "bundle", (48, 64))


def test_streams_keep_their_results_through_joins_stalls_and_resets(bundle: Path) -> None:
    # A frame kept by mistake would be 20 kB: 150 % in 10,000 frames.
    done = soak(bundle, "--frames", "6000", "--slope-limit", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| frames in all | 6,000 |" in done.stdout
    assert "| streams whose labels differ from a run alone | 0 |" in done.stdout


def test_fault_makes_the_check_fail(bundle: Path) -> None:
    done = soak(bundle, "--frames", "500", "--slope-limit", "-10")
    assert done.returncode == 1
    assert "memory grows by" in done.stderr

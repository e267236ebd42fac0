"""samples/camera_demo.py as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.clips import read_clip, write_clip
from tests.runtime.toy import write_toy_bundle

SAMPLE = Path(__file__).parents[2] / "samples" / "camera_demo.py"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def run_sample(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_demo_is_short() -> None:
    assert len(SAMPLE.read_text().splitlines()) < 60


def test_demo_records_a_source(bundle: Path, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4", frames=8), tmp_path / "out.mp4"
    done = run_sample(bundle, clip, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{clip}: 48x64; onnxruntime" in done.stdout
    assert len(read_clip(out)) == 8
    assert run_sample(bundle, clip, "--out", out, "--frames", 3).returncode == 0
    assert len(read_clip(out)) == 3


@pytest.mark.parametrize("source", ["9999", "none.mp4"])
def test_demo_reports_mistakes(bundle: Path, source: str) -> None:
    done = run_sample(bundle, source)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("camera_demo: no ")
    assert "Traceback" not in done.stderr

"""samples/calibrate_cityscapes.py, run as a user runs it, on a tiny tree of the real layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.evaluation.models import write_bundle
from tests.evaluation.trees import make_cityscapes

SAMPLE = Path(__file__).parents[2] / "samples/calibrate_cityscapes.py"


def run_sample(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_sample_writes_an_int8_bundle_with_its_report(tmp_path):
    bundle = write_bundle(tmp_path / "street", classes=19)
    root = tmp_path / "cityscapes"
    make_cityscapes(root, "train", labels=False)
    make_cityscapes(root, "val", sequences=False)
    done = run_sample(bundle, root, tmp_path / "int8", "--clips", 2, "--frames", 5)
    assert done.returncode == 0, done.stderr
    assert "4 clips to choose from, 4 labelled frames" in done.stdout
    assert "INT8: mIoU" in done.stdout
    assert (tmp_path / "int8/calibration/report.html").is_file()


def test_sample_reports_a_missing_tree_in_one_line(tmp_path):
    done = run_sample(tmp_path, tmp_path, tmp_path / "int8")
    assert done.returncode == 1
    assert "leftImg8bit" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

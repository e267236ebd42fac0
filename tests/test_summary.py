"""The end of a test run counts reasons and adds up times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.summary import room_of

SAMPLE = """
import pytest

@pytest.mark.parametrize("port", [80, 8080])
def test_needs_a_server(port):
    pytest.skip(f"no server on port {port}")

@pytest.mark.skip(reason="no GPU on this machine")
def test_needs_a_gpu():
    pass

def test_runs():
    pass
"""
HOOK = """
from tests.summary import write_summary

def pytest_terminal_summary(terminalreporter):
    write_summary(terminalreporter)
"""


def test_summary_counts_reasons_and_tests_of_each_room(tmp_path: Path) -> None:
    for room in ("tests/near", "tests/far"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / f"test_{Path(room).name}.py").write_text(SAMPLE)
    (tmp_path / "conftest.py").write_text(HOOK)
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    command += ["-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 no server on port 80" in lines
    assert "2 no GPU on this machine" in lines
    assert [line for line in lines if line.endswith("s 4 tests near")]
    assert [line for line in lines if line.endswith("s 4 tests far")]
    assert [line for line in lines if line.endswith("s 8 tests")]


def test_room_is_the_folder_below_tests() -> None:
    assert room_of("tests/runtime/loop/test_fleet.py::test_x") == "runtime"
    assert room_of("tests/test_docs.py::test_x[a/b]") == "tests"

"""The quick start and the tutorials run as they stand, and the errors of docs/faq.md exist.

Blocks marked ``console`` and ``python`` are run, in the order of the page, in one folder. Blocks
marked ``bash`` need a device or data that this machine lacks.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_rooms import modules

PAGES = ["quickstart.md", "tutorials/engine.md", "tutorials/camera.md", "tutorials/int8.md"]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Smaller pictures and fewer frames, for time.
SHORTER = (("256x512", "128x256"), ("frames=60", "frames=6"), ("frames=20", "frames=6"))


def steps(page: str) -> list[tuple[str, str]]:
    """(language, text) of what a page runs, a command each."""
    found: list[tuple[str, str]] = []
    for language, text in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        lines = text.strip().splitlines() if language == "console" else [text]
        found += [(language, line) for line in lines]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / "out").mkdir()
    program = tmp_path / "streamseg"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streamseg.cli.main "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}
    ran = 0
    for language, text in steps(page):
        if text.startswith("pip install"):
            continue  # tests/test_install.py installs
        for long, short in SHORTER:
            text = text.replace(long, short)
        command = ["bash", "-ec", text] if language == "console" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 3
    written = [path for path in (tmp_path / "out").iterdir() if path.suffix == ".mp4"]
    assert written
    assert all(path.stat().st_size > 1000 for path in written)


def messages() -> str:
    """All texts of the product, those of one expression joined."""
    parts = []
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
                parts.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
    return "\n".join(parts)


def test_errors_of_the_faq_exist() -> None:
    page = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
    fragments = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(fragments) > 10
    known = messages()
    assert [fragment for fragment in fragments if fragment not in known] == []

"""docs/your-own-network.md: every example runs, and its package is installed as by a user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "your-own-network.md"
BLOCK = re.compile(r"<!-- (file: (?P<file>\S+)|run|test) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the page's files, and the package installed beside them."""
    home = tmp_path_factory.mktemp("user")
    source = Path(shutil.copytree(ROOT / "tests/export/own_family", home / "source"))
    for block in BLOCK.finditer(PAGE.read_text()):
        if name := block["file"]:
            place = source / name if "/" in name else home / name
            place.write_text(block["text"])
    install = ("install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    run(home, sys.executable, "-m", "pip", *install, "--target", home / "site", source)
    return home


def environment(home: Path) -> dict[str, str]:
    """With the user's modules and package."""
    path = [str(home), str(home / "site"), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def run(home: Path, *command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def streamseg(home: Path, *arguments: str) -> str:
    return run(home, sys.executable, "-m", "streamseg.cli.main", *arguments)


def blocks(kind: str) -> list[str]:
    return [b["text"] for b in BLOCK.finditer(PAGE.read_text()) if b[1] == kind]


def test_commands_of_the_page_run(folder: Path) -> None:
    lines = [line for text in blocks("run") for line in text.splitlines()]
    assert len(lines) >= 5
    for line in lines:
        run(
            folder,
            "bash",
            "-c",
            line.replace("streamseg", f"{sys.executable} -m streamseg.cli.main", 1),
        )
    assert (folder / "out/convgru.mp4").stat().st_size > 1000
    assert (folder / "out/ring/manifest.json").exists()


def test_first_example_has_forty_lines_at_most() -> None:
    first = next(b["text"] for b in BLOCK.finditer(PAGE.read_text()) if b["file"] == "convgru.py")
    assert len(first.splitlines()) <= 40


def test_test_of_the_page_passes(folder: Path) -> None:
    (folder / "test_page.py").write_text(blocks("test")[0])
    out = run(folder, sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "test_page.py")
    assert "1 passed" in out


MAKE = """
from streamseg.export import save_checkpoint
from convgru import ConvGRU
model = ConvGRU(["road", "car"], width=8)
save_checkpoint(model, "weights.safetensors")
"""


def test_installed_family_is_known_to_the_commands(folder: Path) -> None:
    assert "convgru/16" in streamseg(folder, "models", "--only", "convgru", "--size", "96x128")
    run(folder, sys.executable, "-c", MAKE)
    message = streamseg(
        folder, "export", "weights.safetensors", "--size", "96x128", "-o", "out/file"
    )
    assert "convgru own, layout convgru, 2 classes" in message
    source = ("synthetic:street?size=96x128&frames=4",)
    message = streamseg(
        folder, "compare", "weights.safetensors", "out/file", "--size", "96x128", *source
    )
    assert "100.00" in message
    train = ("--dataset", "synthetic:easy?size=32x64&scenes=1&frames=5", "--crop", "32x64")
    arguments = ("train", *train, "--steps", "1", "-o", "runs/own", "--init", "weights.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "streamseg.cli.main", *arguments, "--encoder", "mit_b0"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "weights.safetensors: no tensor of it fits the network to train" in done.stderr

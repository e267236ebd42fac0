"""The tutorials' commands that need a device or data, on what exists: one of each kind.

A camera is an RTSP stream, engines are built by TensorRT-RTX up to the file, Cityscapes is a tiny
tree of its real layout with generated pictures. .ci/newcomer.py runs the other commands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import streamseg
from streamseg.runtime.bundle.bundle import digest
from tests.conftest import ROOT
from tests.evaluation.trees import make_cityscapes
from tests.export.test_engines import RTX
from tests.runtime.clips import read_clip
from tests.runtime.streams import RtspServer

PROGRAM = [sys.executable, "-m", "streamseg.cli.main"]
# TensorRT-RTX lies in an environment of its own, without what the command line needs.
WITH_RTX = "import sys; sys.path.append(sys.argv.pop(1)); from streamseg.cli.main import run; run()"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``out/small`` of the tutorials."""
    out = tmp_path_factory.mktemp("out") / "small"
    streamseg.export(ROOT / "samples/street/street.safetensors", out, size=(128, 256), logits=True)
    return out


def read_command(page: str, part: str) -> list[str]:
    """The arguments of the one ``bash`` line of a tutorial that contains ``part``."""
    text = (ROOT / "docs/tutorials" / page).read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    (line,) = [line for line in lines.splitlines() if part in line]
    program, *arguments = shlex.split(line, comments=True)
    assert program == "streamseg"
    return arguments


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_camera_tutorial_runs_on_an_rtsp_stream(small: Path, tmp_path: Path) -> None:
    arguments = read_command("camera.md", "run out/small rtsp://")
    (address,) = [part for part in arguments if part.startswith("rtsp://")]
    user, password = "user", "password"
    assert address.startswith(f"rtsp://{user}:{password}@")
    with RtspServer((128, 256), login=(user, password)) as server:
        served = server.address.replace("//", f"//{user}:{password}@")
        shown = {"out/small": str(small), address: served}
        command = [shown.get(part, part) for part in arguments if part != "--show"]
        out = run([*PROGRAM, *command, "--frames", "6", "-o", "live.mp4"], tmp_path)
    assert len(read_clip(tmp_path / "live.mp4")) == 6
    assert password not in out


@pytest.mark.tensorrt
def test_engine_tutorial_builds_the_engine(small: Path, tmp_path: Path) -> None:
    if not (RTX / "bin/python").exists():
        pytest.skip(f"no TensorRT-RTX at {RTX}; run: make tensorrt-rtx")
    arguments = read_command("engine.md", "streamseg build")
    command = [str(small) if part == "out/small" else part for part in arguments]
    # What the tutorial's machine has: a GPU, on which the engine would be compared as well.
    command += ["--flavour", "tensorrt_rtx", "--capability", "8.6", "--unverified", "--no-native"]
    (site,) = (RTX / "lib").glob("python*/site-packages")
    program = [sys.executable, "-c", WITH_RTX, str(site)]
    run([*program, *command, "-o", "engines"], tmp_path, LD_LIBRARY_PATH=str(RTX / "link"))
    (engine,) = (tmp_path / "engines").rglob("*.engine")
    record = json.loads(engine.with_suffix(".json").read_text())
    assert record["precision"] == "fp16"
    assert record["engine_sha256"] == digest(engine.read_bytes())


def test_int8_tutorial_runs_on_the_layout_of_cityscapes(small: Path, tmp_path: Path) -> None:
    arguments = read_command("int8.md", "cityscapes:")
    root = tmp_path / "cityscapes"
    make_cityscapes(root, "train", labels=False)
    make_cityscapes(root, "val")
    command = [part.replace("/data/cityscapes", str(root)) for part in arguments]
    command[command.index("street")] = str(small)
    command += ["--clips", "2", "--clip-frames", "3", "--drift-frames", "2"]
    run([*PROGRAM, *command], tmp_path)
    report = (tmp_path / "street-int8/calibration/report.html").read_text()
    assert "mIoU" in report

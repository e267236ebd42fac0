"""The commands of docs/runtimes.md run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.cpp.conftest import REQUIREMENTS as CPP
from tests.cpp.conftest import needs_gstreamer
from tests.runtime.smoothing import write_smoothing_bundle

PAGE = (ROOT / "docs/runtimes.md").read_text()
SIZE = (48, 64)
FRAMES = 5
WEB = ROOT / "web/node_modules/onnxruntime-web"


def commands(runtime: str) -> list[str]:
    """The block of commands after the line that begins with a runtime's name."""
    found = re.search(rf"^{runtime} \(.*?```console\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    lines = [line for line in found.group(1).splitlines() if line.strip()]
    assert len(lines) == 3
    return lines


def test_links_exist_and_every_family_is_in_the_table() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    table = PAGE.partition("| | what ran |")[0]
    for name in ("TV3S", "SegFormer", "CFFM", "CFFM++", "MRCFA", "MPVSS", "Mask2Former", "VidEoMT"):
        assert name in table, name


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkout's parts, a bundle and a clip; what commands write stays in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("cpp", "src", "web", "ros2"):
        (folder / name).symlink_to(ROOT / name)
    write_smoothing_bundle(folder / "out/street", SIZE)
    write_clip(folder / "drive.mp4")
    return folder


def write_clip(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(FRAMES):
            image = np.full((*SIZE, 3), 40 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def run_in(folder: Path, lines: list[str]) -> None:
    """Run lines in one shell; those that CI runs by themselves are looked for there."""
    ci, makefile = ((ROOT / name).read_text() for name in (".ci/run", "Makefile"))
    for line in lines:
        target = line.removeprefix("make ")
        if target != line:  # CI runs it by itself, or because another target needs it
            assert f"\n{target}:" in makefile
            assert re.search(rf"\b{target}\b", ci) or re.search(rf"^\S+:.* {target}\b", makefile)
    runtime = next(line for line in PAGE.splitlines() if line.startswith("ORT="))
    script = "\n".join([runtime, *(line for line in lines if not line.startswith("make "))])
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-3000:]


def test_python(checkout: Path) -> None:
    run_in(checkout, commands("Python"))
    assert (checkout / "out/labels.mp4").stat().st_size > 0


@pytest.mark.skipif(not WEB.is_dir(), reason="no onnxruntime-web: run make web-tools")
def test_browser(checkout: Path) -> None:
    *lines, serve = commands("Browser")
    run_in(checkout, lines)
    command = [sys.executable, *serve.split()[1:-1], "0"]  # any free port
    with subprocess.Popen(
        [*command[:1], "-u", *command[1:]], cwd=checkout, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{port.group(1)}/", timeout=20) as page:
            assert b"streamseg" in page.read()
        server.send_signal(signal.SIGTERM)


def with_requirements(function: object) -> object:
    for mark in (*CPP, needs_gstreamer):
        function = mark(function)
    return function


@with_requirements
def test_cpp(checkout: Path) -> None:
    run_in(checkout, commands("C\\+\\+"))
    assert (checkout / "out/labels.raw").stat().st_size == FRAMES * SIZE[0] * SIZE[1]


@with_requirements
def test_gstreamer(checkout: Path) -> None:
    run_in(checkout, commands("GStreamer"))
    assert len(list((checkout / "out").glob("*.png"))) == FRAMES


@with_requirements
def test_ros_installs_the_library(checkout: Path) -> None:
    install, build_it, _ = commands("ROS 2")
    run_in(checkout, [install])
    assert (checkout / "out/cpp/lib/cmake/streamseg/streamsegConfig.cmake").is_file() or list(
        (checkout / "out/cpp").rglob("streamsegConfig.cmake")
    )
    if shutil.which("colcon"):
        run_in(checkout, [build_it])

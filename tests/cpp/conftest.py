"""Builds of the C++ runtime, shared by its tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

_WHEEL = importlib.util.find_spec("onnxruntime")
RUNTIME = (
    next((Path(_WHEEL.origin).parent / "capi").glob("libonnxruntime.so*"), None)
    if _WHEEL is not None and _WHEEL.origin is not None
    else None
)
REQUIREMENTS = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake here"),
    pytest.mark.skipif(
        not Path("/usr/include/nlohmann/json.hpp").exists(),
        reason="no nlohmann-json here: run make cpp-tools",
    ),
    pytest.mark.skipif(RUNTIME is None, reason="no onnxruntime wheel with a shared library here"),
]
Build = Callable[..., Path]
GSTREAMER = shutil.which("gst-launch-1.0") is not None and (
    subprocess.run(["pkg-config", "--exists", "gstreamer-app-1.0"], check=False).returncode == 0
    if shutil.which("pkg-config")
    else False
)
needs_gstreamer = pytest.mark.skipif(
    not GSTREAMER, reason="no GStreamer development files: run make cpp-tools"
)


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([str(c) for c in command], capture_output=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-4000:]
    return done  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def build() -> Build:
    """Function of a sanitizer list: the folder of that build; kept between runs."""

    def make(sanitize: str = "") -> Path:
        folder = ROOT / "build" / f"cpp-{sanitize.replace(',', '-') or 'plain'}"
        options = [f"-DSTREAMSEG_SANITIZE={sanitize}", "-DSTREAMSEG_TESTS=ON"]
        if sanitize:  # the full optimization takes minutes with them
            options += ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0"]
        if not sanitize and GSTREAMER:
            options.append("-DSTREAMSEG_GSTREAMER=ON")
        run("cmake", "-S", ROOT / "cpp", "-B", folder, *options)
        run("cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1))
        return folder

    return make

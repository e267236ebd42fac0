"""The installed C++ library, as another project finds it: by CMake, by pkg-config, after a move."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from streamseg._version import __version__
from tests.conformance.write_cases import FOLDER
from tests.conftest import ROOT
from tests.cpp.conftest import GSTREAMER, REQUIREMENTS, RUNTIME, Build, run

pytestmark = REQUIREMENTS
CASE = FOLDER / "carry"
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <streamseg/streamseg.h>

/* BUNDLE ONNXRUNTIME HEIGHT WIDTH < one RGB frame > its labels */
int main(int count, char** values) {
  streamseg_options options = {0};
  streamseg_stream* stream = NULL;
  if (count != 5) return 2;
  options.onnxruntime = values[2];
  const int height = atoi(values[3]), width = atoi(values[4]);
  uint8_t *pixels = malloc(height * width * 3), *labels = malloc(height * width);
  if (fread(pixels, 3, height * width, stdin) != (size_t)(height * width)) return 2;
  const streamseg_frame frame = {pixels, height, width, 3 * width, STREAMSEG_RGB};
  if (streamseg_open(values[1], &options, &stream) != STREAMSEG_OK ||
      streamseg_step(stream, &frame, labels, width) != STREAMSEG_OK) {
    fprintf(stderr, "%s\\n", streamseg_message());
    return 1;
  }
  fwrite(labels, 1, height * width, stdout);
  streamseg_close(stream);
  return 0;
}
"""
PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(foreign LANGUAGES C CXX)
find_package(streamseg VERSION REQUIRED)
add_executable(program program.c)
target_link_libraries(program PRIVATE streamseg::streamseg)
add_library(page OBJECT page.cpp)
target_link_libraries(page PRIVATE streamseg::streamseg)
"""


@pytest.fixture(scope="module")
def prefix(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed tree that was moved to another folder afterwards."""
    folder = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", build(), "--prefix", folder / "first")
    return (folder / "first").rename(folder / "moved")


def found_below(prefix: Path, name: str) -> Path:
    (path,) = prefix.rglob(name)
    return path


def expect_labels(program: Path, **options: object) -> None:
    about = json.loads((CASE / "case.json").read_text())
    height, width = about["height"], about["width"]
    frame = (CASE / "frames.bin").read_bytes()[: height * width * 3]
    done = run(program, CASE / "bundle", RUNTIME, height, width, input=frame, **options)
    expected = np.fromfile(CASE / "labels.bin", np.uint8)[: height * width]
    assert done.stdout == expected.tobytes()


def page_example() -> str:
    """The C++ of docs/cpp.md, as a function of what it leaves open."""
    (block,) = re.findall(r"```cpp\n(.*?)```", (ROOT / "docs/cpp.md").read_text(), re.DOTALL)
    include, rest = block.split("\n", 1)
    arguments = "const uint8_t* pixels, int height, int width, ptrdiff_t stride"
    return f"{include}\nvoid example({arguments}) {{{rest}}}\n"


def configure(folder: Path, prefix: Path, version: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "program.c").write_text(PROGRAM)
    (folder / "page.cpp").write_text(page_example())
    (folder / "CMakeLists.txt").write_text(PROJECT.replace("VERSION REQ", f"{version} REQ"))
    command = ["cmake", "-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={prefix}"]
    return subprocess.run([str(c) for c in command], capture_output=True, check=False)


def test_project_finds_the_package_and_gives_the_recorded_labels(
    prefix: Path, tmp_path: Path
) -> None:
    release = re.match(r"\d+\.\d+", __version__).group()  # type: ignore[union-attr]
    done = configure(tmp_path, prefix, release)
    assert done.returncode == 0, done.stderr.decode()
    run("cmake", "--build", tmp_path / "build")
    expect_labels(tmp_path / "build/program")


def test_another_version_is_not_accepted(prefix: Path, tmp_path: Path) -> None:
    done = configure(tmp_path, prefix, "99.0")
    assert done.returncode != 0
    assert b"streamsegConfig.cmake, version: " in done.stderr


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config: run make cpp-tools")
def test_pkg_config_finds_the_library(prefix: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PKG_CONFIG_PATH": str(found_below(prefix, "pkgconfig"))}
    version = run("pkg-config", "--modversion", "streamseg", env=environment).stdout.decode()
    assert __version__.startswith(version.strip())
    flags = run("pkg-config", "--cflags", "--libs", "streamseg", env=environment).stdout.decode()
    (tmp_path / "program.c").write_text(PROGRAM)
    run("cc", tmp_path / "program.c", "-o", tmp_path / "program", *flags.split())
    libraries = str(found_below(prefix, "libstreamseg.so").parent)
    expect_labels(tmp_path / "program", env={**os.environ, "LD_LIBRARY_PATH": libraries})


def test_installed_command_and_element_find_their_library(prefix: Path) -> None:
    assert b"usage" in run(prefix / "bin/streamseg-run", "--help").stdout
    if not GSTREAMER:
        pytest.skip("no GStreamer: the installed element was not looked for")
    folder = found_below(prefix, "libgststreamseg.so").parent
    shown = run("gst-inspect-1.0", "streamsegfilter", env={**os.environ, "GST_PLUGIN_PATH": folder})
    assert b"labels" in shown.stdout

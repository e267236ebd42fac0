"""The CUDA backend over a stand-in for the device, and what the stand-in finds.

ONNX Runtime computes on the host. Device addresses are invalid for the host, memory begins with
arbitrary bytes, inputs that the host reads are copied when they are bound, and outputs are there
only once they are synchronized.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from streamseg.plugins.loader import find_library
from tests.conformance.write_cases import FOLDER
from tests.conftest import ROOT
from tests.cpp.conftest import REQUIREMENTS, RUNTIME, Build, run

pytestmark = REQUIREMENTS
CASES = len(list(FOLDER.glob("*/case.json")))
# Fault, text in the source, its replacement.
FAULTS = {
    "inputs are bound once": (
        "onnxruntime_backends.cpp",
        "void run() override {\n    // What",
        "bool bound_ = false;\n  void run() override {\n    if (bound_) {\n"
        "      library_.run(session_, binding_.get());\n      return;\n    }\n"
        "    bound_ = true;\n    // What",
    ),
    "outputs are read before they are synchronized": (
        "onnxruntime.cpp",
        "check(api_->get<203, Status*(const IoBinding*)>()",
        "if (false) check(api_->get<203, Status*(const IoBinding*)>()",
    ),
    "state is not cleared": (
        "cuda.cpp",
        "  clear(reinterpret_cast<void*>(data), bytes);\n",
        "",
    ),
    "state is copied by the host": (
        "stream.cpp",
        "memory_->download(out, data_, bytes_);",
        "std::memcpy(out, data_, bytes_);",
    ),
    "memory is not released": ("stream.cpp", "memory_->release(data_);", "(void)data_;"),
    "products may be rounded": (
        "onnxruntime.cpp",
        'values[] = {"0", "0"}',
        'values[] = {"0", "1"}',
    ),
}


def play(
    program: Path, stand_in: Path, cases: Path = FOLDER, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    command = [program, cases, stand_in / "libstand_in_onnxruntime.so", find_library(), "cuda"]
    environment = {
        **os.environ,
        **variables,
        "LD_LIBRARY_PATH": str(stand_in),
        "STREAMSEG_REAL_ONNXRUNTIME": str(RUNTIME),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    return subprocess.run(
        [str(c) for c in command], capture_output=True, check=False, env=environment
    )


@pytest.mark.parametrize("sanitize", ["", "thread"])
def test_conformance_set_is_reproduced_on_the_stand_in(build: Build, sanitize: str) -> None:
    folder = build(sanitize)
    done = play(folder / "conformance", folder / "stand_in")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.decode().count("16 steps equal") == CASES


@pytest.mark.parametrize(
    ("precision", "float16"),
    [
        ({"layers": "float16"}, True),
        ({"layers": "float32"}, False),
        ({"layers": "int8", "rest": "float16"}, False),
        ({"layers": "float16", "attention": "bf16"}, False),
        (None, False),
    ],
    ids=str,
)
def test_tf32_is_switched_off_unless_all_layers_are_float16(
    build: Build, tmp_path: Path, precision: dict[str, str] | None, float16: bool
) -> None:
    """As in Python; ``use_tf32=0`` takes tensor cores from float16 too."""
    folder = build()
    shutil.copytree(FOLDER / "operators", tmp_path / "cases/operators")
    shutil.copy(FOLDER / "geometry.json", tmp_path / "cases")
    (written,) = tmp_path.glob("cases/operators/**/manifest.json")
    content = json.loads(written.read_text())
    content["precision"] = precision
    written.write_text(json.dumps(content))
    variables = {"STREAMSEG_STAND_IN_FLOAT16": "1"} if float16 else {}
    done = play(folder / "conformance", folder / "stand_in", tmp_path / "cases", **variables)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("fault", FAULTS)
def test_stand_in_finds_the_fault(build: Build, fault: str, tmp_path: Path) -> None:
    name, text, replacement = FAULTS[fault]
    shutil.copytree(ROOT / "cpp/src", tmp_path / "src")
    source = (tmp_path / "src" / name).read_text()
    assert source.count(text) == 1
    (tmp_path / "src" / name).write_text(source.replace(text, replacement))
    folder = build()
    objects = [
        path
        for path in folder.glob("CMakeFiles/streamseg_objects.dir/src/*.o")
        if path.name != f"{name}.o"
    ]
    objects += list(folder.glob("CMakeFiles/conformance.dir/tests/*.o"))
    run(
        *("c++", "-std=c++17", "-O0", "-I", tmp_path / "src", "-I", ROOT / "cpp/include"),
        *(tmp_path / "src" / name, *objects, "-ldl", "-o", tmp_path / "conformance"),
    )
    done = play(tmp_path / "conformance", folder / "stand_in")
    assert done.returncode != 0, done.stdout

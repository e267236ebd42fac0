"""The C++ runtime: conformance, sanitizers, damaged manifests."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from streamseg.plugins.loader import find_library
from tests.conformance.write_cases import FOLDER
from tests.conftest import ROOT
from tests.cpp.conftest import REQUIREMENTS, RUNTIME, Build, run

pytestmark = REQUIREMENTS
SANITIZERS = ["address,undefined", "thread"]
CASES = len(list(FOLDER.glob("*/case.json")))


@pytest.mark.parametrize("operators", [True, False], ids=["native", "lowering"])
def test_conformance_set_is_reproduced(build: Build, *, operators: bool) -> None:
    library = [find_library()] if operators else []
    done = run(build() / "conformance", FOLDER, RUNTIME, *library)
    assert done.stdout.decode().count("16 steps equal") == CASES


@pytest.mark.parametrize("sanitize", SANITIZERS)
def test_conformance_is_clean_under_sanitizers(build: Build, sanitize: str) -> None:
    # What ONNX Runtime itself keeps until the process ends is not ours.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    run(build(sanitize) / "conformance", FOLDER, RUNTIME, find_library(), env=environment)


def test_thread_sanitizer_finds_memory_that_streams_share(build: Build, tmp_path: Path) -> None:
    """A counter that both streams of the conformance program write without a lock."""
    folder, shared = build("thread"), tmp_path / "stream.cpp"
    text = (ROOT / "cpp/src/stream.cpp").read_text()
    assert text.count("  ++step_;\n") == 1
    fault = "  static uint64_t of_all = 0;\n  ++of_all;\n  ++step_;\n"
    shared.write_text(text.replace("  ++step_;\n", fault))
    objects = [
        path
        for part in ("streamseg_objects.dir/src", "conformance.dir/tests")
        for path in (folder / "CMakeFiles" / part).glob("*.o")
        if path.name != "stream.cpp.o"
    ]
    includes = ("-I", ROOT / "cpp/src", "-I", ROOT / "cpp/include")
    options = ("-std=c++17", "-O0", "-g", "-fsanitize=thread", *includes)
    run("c++", *options, shared, *objects, "-ldl", "-o", tmp_path / "conformance")
    command = [tmp_path / "conformance", FOLDER, RUNTIME, find_library()]
    done = subprocess.run([str(c) for c in command], capture_output=True, check=False)
    assert b"ThreadSanitizer: data race" in done.stderr


def damaged(text: str, rng: random.Random) -> bytes:
    """A manifest with a few bytes changed, cut, doubled, or a value replaced."""
    content = bytearray(text.encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content))
        way = rng.randrange(4)
        if way == 0:
            content[at] = rng.randrange(256)
        elif way == 1:
            del content[at : at + rng.randrange(40)]
        elif way == 2:
            content[at:at] = content[at : at + rng.randrange(40)]
        else:
            digits = rng.choice([b"-1", b"1e999", b"99999999999999999999", b"null", b"[]", b'"x"'])
            content[at:at] = digits
        if not content:
            content += b"{}"
    return bytes(content)


@pytest.mark.parametrize("sanitize", SANITIZERS)
def test_damaged_manifests_are_refused_without_a_fault(
    build: Build, sanitize: str, tmp_path: Path
) -> None:
    rng = random.Random(7)
    texts = [path.read_text() for path in sorted(FOLDER.glob("*/bundle/manifest.json"))]
    files = []
    for i in range(600):
        files.append(tmp_path / f"{i}.json")
        files[-1].write_bytes(damaged(rng.choice(texts), rng))
    (tmp_path / "deep.json").write_text("[" * 50_000)
    run(build(sanitize) / "manifest_fuzz", *files, tmp_path / "deep.json")


@pytest.mark.parametrize("name", ["carry", "operators"])
def test_step_allocates_no_more_than_a_bare_run(build: Build, name: str) -> None:
    """Of all allocations of the process, a step's are those of ONNX Runtime's own run."""
    bundle = FOLDER / name / "bundle"
    run(build() / "overhead", "allocations", bundle, RUNTIME, 1, 50, find_library())

"""The C++ runtime: conformance, sanitizers, damaged manifests, its command and GStreamer."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import streamseg
from streamseg.plugins.loader import find_library
from tests.conformance.write_cases import FOLDER
from tests.conftest import ROOT
from tests.runtime.smoothing import write_smoothing_bundle

onnxruntime = pytest.importorskip("onnxruntime")
RUNTIME = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)
pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake here"),
    pytest.mark.skipif(
        not Path("/usr/include/nlohmann/json.hpp").exists(),
        reason="no nlohmann-json here: run make cpp-tools",
    ),
    pytest.mark.skipif(RUNTIME is None, reason="this onnxruntime wheel has no shared library"),
]
Build = Callable[..., Path]
GSTREAMER = shutil.which("gst-launch-1.0") is not None and (
    subprocess.run(["pkg-config", "--exists", "gstreamer-video-1.0"], check=False).returncode == 0
    if shutil.which("pkg-config")
    else False
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
        if not sanitize and GSTREAMER:
            options.append("-DSTREAMSEG_GSTREAMER=ON")
        run("cmake", "-S", ROOT / "cpp", "-B", folder, *options)
        run("cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1))
        return folder

    return make


CASES = len(list(FOLDER.glob("*/case.json")))


@pytest.mark.parametrize("operators", [True, False], ids=["native", "lowering"])
def test_conformance_set_is_reproduced(build: Build, *, operators: bool) -> None:
    library = [find_library()] if operators else []
    done = run(build() / "conformance", FOLDER, RUNTIME, *library)
    assert done.stdout.decode().count("16 steps equal") == CASES


@pytest.mark.parametrize("sanitize", ["address,undefined", "thread"])
def test_conformance_is_clean_under_sanitizers(build: Build, sanitize: str) -> None:
    # What ONNX Runtime itself keeps until the process ends is not ours.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    run(build(sanitize) / "conformance", FOLDER, RUNTIME, find_library(), env=environment)


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


def test_damaged_manifests_are_refused_without_a_fault(build: Build, tmp_path: Path) -> None:
    rng = random.Random(7)
    texts = [path.read_text() for path in sorted(FOLDER.glob("*/bundle/manifest.json"))]
    files = []
    for i in range(600):
        files.append(tmp_path / f"{i}.json")
        files[-1].write_bytes(damaged(rng.choice(texts), rng))
    (tmp_path / "deep.json").write_text("[" * 50_000)
    run(build("address,undefined") / "manifest_fuzz", *files, tmp_path / "deep.json")


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("native", [True, False], ids=["native", "lowered"])
def test_command_gives_the_labels_of_python(build: Build, native: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="exports a network")
    from streamseg.export import export_bundle
    from tests.export import tiny

    export_bundle(tiny.build("tv3s"), tmp_path / "tv3s", size=tiny.SIZE)
    frames = noise(5, *tiny.SIZE)
    library = find_library() if native else None
    with streamseg.open(tmp_path / "tv3s", native=native, threads=1) as stream:
        expected = np.stack([stream.step(frame).labels for frame in frames])
    height, width = tiny.SIZE
    options = ["--size", f"{height}x{width}", "--threads", "1", "--onnxruntime", RUNTIME]
    if library is not None:
        options += ["--operators", library]
    done = run(build() / "streamseg-run", tmp_path / "tv3s", *options, input=frames.tobytes())
    found = np.frombuffer(done.stdout, np.uint8).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(40, 60), (31, 95), (128, 200)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_frames_of_other_sizes_are_fitted_as_in_python(
    build: Build, size: tuple[int, int], resize: str, tmp_path: Path
) -> None:
    bundle = write_smoothing_bundle(tmp_path / "b", (48, 64))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["frame"]["resize"] = resize
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    ramp = np.linspace(0, 255, size[1], dtype=np.uint8)
    frames = np.broadcast_to(ramp[:, None], (3, *size, 3)).copy()
    frames[:, : size[0] // 2] //= 2
    with streamseg.open(bundle) as stream:
        expected = np.stack([stream.step(frame).labels for frame in frames])
    options = ["--size", f"{size[0]}x{size[1]}", "--onnxruntime", RUNTIME]
    done = run(build() / "streamseg-run", bundle, *options, input=frames.tobytes())
    found = np.frombuffer(done.stdout, np.uint8).reshape(expected.shape)
    # OpenCV resizes in fixed point, this library in float32: a byte may round the other way, and
    # with it the nearest colour at the borders between two.
    assert (found == expected).mean() > 0.97


def test_mistakes_are_one_line(build: Build, tmp_path: Path) -> None:
    command = build() / "streamseg-run"
    cases = {
        ("x", "--size", "8x8", "--onnxruntime", RUNTIME): b"the bundle has no x/manifest.json",
        ("x", "--size", "8y8"): b"'8y8' is not a size",
        (FOLDER / "carry/bundle", "--size", "6x10", "--onnxruntime", "none.so"): b"does not load",
    }
    for arguments, expected in cases.items():
        done = subprocess.run(
            [str(command), *map(str, arguments)], capture_output=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 2
        assert expected in done.stderr, done.stderr


def test_changed_file_is_refused(build: Build, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "carry/bundle", tmp_path / "b")
    graph = tmp_path / "b/step.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    arguments = [tmp_path / "b", "--size", "6x10", "--onnxruntime", RUNTIME]
    done = subprocess.run(
        [str(build() / "streamseg-run"), *map(str, arguments)], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"changed or damaged after export" in done.stderr


@pytest.mark.skipif(not GSTREAMER, reason="no GStreamer development files: run make cpp-tools")
def test_gstreamer_element_gives_the_labels_of_python(build: Build, tmp_path: Path) -> None:
    folder, bundle = build(), write_smoothing_bundle(tmp_path / "b", (48, 64))
    source = ["videotestsrc", "num-buffers=6", "pattern=ball", "!"]
    caps = "video/x-raw,format=RGB,width=64,height=48,framerate=25/1"
    environment = {**os.environ, "GST_PLUGIN_PATH": str(folder)}
    raw, labels = tmp_path / "raw", tmp_path / "labels"
    run("gst-launch-1.0", "-q", *source, caps, "!", "filesink", f"location={raw}")
    element = ["streamsegfilter", f"bundle={bundle}", f"onnxruntime={RUNTIME}", "labels=true"]
    run(
        "gst-launch-1.0", "-q", *source, caps, "!", *element, "!", "filesink",
        f"location={labels}", env=environment,
    )  # fmt: skip
    frames = np.frombuffer(raw.read_bytes(), np.uint8).reshape(-1, 48, 64, 3)
    found = np.frombuffer(labels.read_bytes(), np.uint8).reshape(-1, 48, 64, 3)
    with streamseg.open(bundle) as stream:
        expected = np.stack([stream.step(frame).labels for frame in frames])
    assert len(found) == 6
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], expected)


@pytest.mark.skipif(not GSTREAMER, reason="no GStreamer development files: run make cpp-tools")
def test_gstreamer_element_names_a_missing_bundle(build: Build, tmp_path: Path) -> None:
    command = ["gst-launch-1.0", "videotestsrc", "num-buffers=1", "!", "streamsegfilter"]
    command += [f"bundle={tmp_path / 'none'}", f"onnxruntime={RUNTIME}", "!", "fakesink"]
    environment = {**os.environ, "GST_PLUGIN_PATH": str(build())}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode != 0
    assert b"the bundle has no" in done.stdout + done.stderr

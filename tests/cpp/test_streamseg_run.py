"""streamseg-run and the GStreamer element: labels equal to Python's, one line for each mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamseg
from tests.conformance.write_cases import FOLDER
from tests.cpp.conftest import REQUIREMENTS, RUNTIME, Build, needs_gstreamer, run
from tests.runtime.smoothing import write_smoothing_bundle

pytestmark = REQUIREMENTS
SIZE = (48, 64)


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


WRITER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* Another process writes a byte, the same one, into every file that is mapped at once. */
void* mmap(void* place, size_t size, int protection, int flags, int file, off_t at) {
  void* (*real)(void*, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap");
  void* data = real(place, size, protection, flags, file, at);
  char path[64];
  if (file >= 0 && (flags & MAP_POPULATE) != 0) {
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    const int writer = open(path, O_WRONLY);
    if (writer < 0 || pwrite(writer, data, 1, 0) != 1) return MAP_FAILED;
    close(writer);
  }
  return data;
}
"""


def test_file_that_changes_while_it_is_opened_is_refused(build: Build, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "carry/bundle", tmp_path / "b")
    (tmp_path / "writer.c").write_text(WRITER)
    run("cc", "-shared", "-fPIC", "-o", tmp_path / "writer.so", tmp_path / "writer.c", "-ldl")
    command = [
        build() / "streamseg-run",
        tmp_path / "b",
        "--size",
        "6x10",
        "--onnxruntime",
        RUNTIME,
    ]
    environment = {**os.environ, "LD_PRELOAD": str(tmp_path / "writer.so")}
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, check=False, env=environment
    )
    assert done.returncode == 2
    assert b"step.onnx was changed while it was opened" in done.stderr


@needs_gstreamer
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


@needs_gstreamer
def test_gstreamer_element_names_a_missing_bundle(build: Build, tmp_path: Path) -> None:
    command = ["gst-launch-1.0", "videotestsrc", "num-buffers=1", "!", "streamsegfilter"]
    command += [f"bundle={tmp_path / 'none'}", f"onnxruntime={RUNTIME}", "!", "fakesink"]
    environment = {**os.environ, "GST_PLUGIN_PATH": str(build())}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode != 0
    assert b"the bundle has no" in done.stdout + done.stderr


def labels_of_python(bundle: Path, frames: Any) -> np.ndarray:
    with streamseg.open(bundle) as stream:
        return np.stack([stream.step(frame).labels.copy() for frame in frames])


def labels_of_command(build: Build, bundle: Path, source: str | Path, *options: str) -> bytes:
    arguments = [bundle, "--source", source, "--onnxruntime", RUNTIME, *options]
    done = run(build() / "streamseg-run", *arguments)
    assert done.stderr == b""
    return done.stdout


def read_pgm(content: bytes) -> list[np.ndarray]:
    """Every picture of a row of PGM files."""
    found = []
    while content:
        magic, size, largest, content = content.split(b"\n", 3)
        assert (magic, largest) == (b"P5", b"255")
        width, height = map(int, size.split())
        found.append(np.frombuffer(content[: height * width], np.uint8).reshape(height, width))
        content = content[height * width :]
    return found


def write_video(
    path: Path, codec: str, layout: str, *, frames: int = 8, gap: tuple[int, int] = (0, 0)
) -> None:
    """A noisy clip; ``gap`` is a frame, and the frames' lengths that pass before it."""
    import av

    rng = np.random.default_rng(5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, layout
        for i in range(frames):
            image = rng.normal(60 + 20 * i, 25, (*SIZE, 3)).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i + (gap[1] if i >= gap[0] else 0)
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode(path: Path) -> np.ndarray:
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_by_gstreamer(raw: Path, *front: str) -> np.ndarray:
    sink = ["!", "videoconvert", "!", "video/x-raw,format=RGB", "!", "filesink", f"location={raw}"]
    run("gst-launch-1.0", "-q", *front, *sink)
    return np.frombuffer(raw.read_bytes(), np.uint8).reshape(-1, *SIZE, 3)


@needs_gstreamer
def test_lossless_file_gives_the_labels_of_python(build: Build, tmp_path: Path) -> None:
    bundle, video = write_smoothing_bundle(tmp_path / "b", SIZE), tmp_path / "a ! b'.avi"
    write_video(video, "png", "rgb24")
    expected = labels_of_python(bundle, decode(video))
    assert len(np.unique(expected)) > 1
    found = read_pgm(labels_of_command(build, bundle, f"file://{tmp_path}/a%20!%20b'.avi", "--pgm"))
    np.testing.assert_array_equal(np.stack(found), expected)
    raw = labels_of_command(build, bundle, video.rename(tmp_path / "a'b.avi"), "--frames", "3")
    assert raw == expected[:3].tobytes()


@needs_gstreamer
def test_h264_file_gives_the_labels_of_python_over_the_same_decoder(
    build: Build, tmp_path: Path
) -> None:
    bundle, video = write_smoothing_bundle(tmp_path / "b", SIZE), tmp_path / "x.mp4"
    write_video(video, "libx264", "yuv420p")
    frames = decode_by_gstreamer(tmp_path / "raw", "filesrc", f"location={video}", "!", "decodebin")
    assert len(frames) == 8
    # Another decoder and conversion to RGB: nearly the same pictures.
    assert np.abs(frames.astype(int) - decode(video)).mean() < 3
    found = labels_of_command(build, bundle, video)
    assert found == labels_of_python(bundle, frames).tobytes()


@needs_gstreamer
def test_pipeline_gives_the_labels_of_python(build: Build, tmp_path: Path) -> None:
    bundle = write_smoothing_bundle(tmp_path / "b", SIZE)
    pipeline = "videotestsrc num-buffers=6 pattern=ball ! video/x-raw,width=64,height=48"
    frames = decode_by_gstreamer(tmp_path / "raw", *pipeline.split())
    found = labels_of_command(build, bundle, pipeline)
    assert found == labels_of_python(bundle, frames).tobytes()
    assert len(frames) == 6


@needs_gstreamer
def test_change_of_size_resets_the_state(build: Build, tmp_path: Path) -> None:
    """Two clips of different sizes behind one another: the second begins with an empty state."""
    bundle, folder = write_smoothing_bundle(tmp_path / "b", SIZE), tmp_path
    pipeline = (
        "concat name=c "
        "videotestsrc num-buffers=3 pattern=white ! video/x-raw,width=64,height=48 ! c. "
        "videotestsrc num-buffers=3 pattern=black ! video/x-raw,width=32,height=24 ! c. "
        "c."  # the pad that the sink takes
    )
    arguments = [bundle, "--source", pipeline, "--onnxruntime", RUNTIME, "--pgm"]
    done = run(build() / "streamseg-run", *arguments, cwd=folder)
    found = read_pgm(done.stdout)
    assert [picture.shape for picture in found] == [SIZE] * 3 + [(24, 32)] * 3
    assert b"frame 3 does not continue the video: the state is reset" in done.stderr
    black = labels_of_python(bundle, np.zeros((1, 24, 32, 3), np.uint8))
    np.testing.assert_array_equal(found[3], black[0])


@needs_gstreamer
def test_time_without_pictures_resets_the_state(build: Build, tmp_path: Path) -> None:
    bundle, video = write_smoothing_bundle(tmp_path / "b", SIZE), tmp_path / "x.mkv"
    write_video(video, "libvpx", "yuv420p", gap=(4, 60))
    arguments = [bundle, "--source", video, "--onnxruntime", RUNTIME]
    done = run(build() / "streamseg-run", *arguments)
    frames = decode_by_gstreamer(tmp_path / "raw", "filesrc", f"location={video}", "!", "decodebin")
    expected = [labels_of_python(bundle, part) for part in (frames[:4], frames[4:])]
    assert done.stdout == np.concatenate(expected).tobytes()
    assert done.stderr.count(b"the state is reset") == 1
    assert b"frame 4 does not continue the video" in done.stderr


@needs_gstreamer
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("missing.mp4", b"missing.mp4 does not open: Resource not found"),
        ("/dev/video99", b"/dev/video99 does not open: Cannot identify device"),
        ("nonsense ! fakesink", b'cannot make a pipeline of nonsense ! fakesink: no element "no'),
    ],
)
def test_sources_that_do_not_open_are_one_line(
    build: Build, source: str, expected: bytes, tmp_path: Path
) -> None:
    bundle = write_smoothing_bundle(tmp_path / "b", SIZE)
    command = [build() / "streamseg-run", bundle, "--source", source, "--onnxruntime", RUNTIME]
    done = subprocess.run([str(c) for c in command], capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr, done.stderr
    assert done.stdout == b""


@needs_gstreamer
def test_damaged_file_gives_the_labels_before_the_damage_and_reports_it(
    build: Build, tmp_path: Path
) -> None:
    bundle, video = write_smoothing_bundle(tmp_path / "b", SIZE), tmp_path / "x.avi"
    write_video(video, "png", "rgb24")
    expected = labels_of_python(bundle, decode(video))
    content = bytearray(video.read_bytes())
    at = content.index(b"IDAT", len(content) * 3 // 4)
    content[at + 8 : at + 600] = b"?" * 592
    video.write_bytes(content)
    done = run(build() / "streamseg-run", bundle, "--source", video, "--onnxruntime", RUNTIME)
    whole = len(done.stdout) // expected[0].size
    assert 3 <= whole < len(expected)
    assert b"x.avi ends after 0.2" in done.stderr
    assert b"frames may be missing" in done.stderr
    assert done.stdout == expected[:whole].tobytes()

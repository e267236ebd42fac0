"""streamseg-run on a camera: GStreamer's v4l2src over a camera that the host imitates."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from pathlib import Path

import numpy as np

import streamseg
from tests.cpp.conftest import REQUIREMENTS, RUNTIME, Build, needs_gstreamer
from tests.runtime.smoothing import write_smoothing_bundle

pytestmark = [*REQUIREMENTS, needs_gstreamer]
SIZE = (48, 64)
PIXELS = SIZE[0] * SIZE[1]
DEVICE = "/dev/video42"


def make_frames(count: int) -> np.ndarray:
    rng = np.random.default_rng(6)
    frames = rng.normal(0, 25, (count, *SIZE, 3)) + np.linspace(20, 235, count)[:, None, None, None]
    return frames.clip(0, 255).astype(np.uint8)


def expected_labels(bundle: Path, frames: np.ndarray) -> np.ndarray:
    with streamseg.open(bundle) as stream:
        return np.stack([stream.step(frame).labels.copy() for frame in frames])


def start(
    build: Build, folder: Path, pictures: np.ndarray, fourcc: str, *options: str
) -> subprocess.Popen[bytes]:
    """The command on a camera that gives these pictures, ten a second, and is then unplugged."""
    (folder / "pictures").write_bytes(pictures.tobytes())
    environment = {
        **os.environ,
        "LD_PRELOAD": str(build() / "stand_in/libcamera.so"),
        "CAMERA_FORMAT": f"{fourcc}:{SIZE[0]}:{SIZE[1]}:{pictures[0].nbytes}",
        "CAMERA_FRAMES": str(folder / "pictures"),
    }
    command = [
        build() / "streamseg-run",
        folder / "b",
        "--source",
        DEVICE,
        "--onnxruntime",
        RUNTIME,
    ]
    return subprocess.Popen(
        [*map(str, command), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_camera_gives_the_labels_of_python(build: Build, tmp_path: Path) -> None:
    bundle, frames = write_smoothing_bundle(tmp_path / "b", SIZE), make_frames(5)
    expected = expected_labels(bundle, frames)
    assert len(np.unique(expected)) > 1
    with start(build, tmp_path, frames, "RGB3", "--frames", "5") as process:
        labels, messages = process.communicate(timeout=60)
    assert (process.returncode, messages) == (0, b"")
    assert labels == expected.tobytes()


def test_camera_in_yuv_is_converted(build: Build, tmp_path: Path) -> None:
    """Grey pictures: their brightness as a camera writes it, 16 to 235."""
    bundle = write_smoothing_bundle(tmp_path / "b", SIZE)
    levels = np.array([30, 120, 210], np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (3, *SIZE, 3)).astype(np.uint8)
    brightness = np.round(16 + levels * (219 / 255)).astype(np.uint8)
    pictures = np.full((3, *SIZE, 2), 128, np.uint8)
    pictures[..., 0] = brightness[:, None, None]
    with start(build, tmp_path, pictures, "YUYV", "--frames", "3") as process:
        labels, messages = process.communicate(timeout=60)
    assert (process.returncode, messages) == (0, b"")
    assert labels == expected_labels(bundle, frames).tobytes()


def test_slow_steps_drop_the_oldest_frames_and_an_unplugged_camera_is_reported(
    build: Build, tmp_path: Path
) -> None:
    """Nobody reads the labels while the camera runs, so that the second label map blocks."""
    bundle, frames = write_smoothing_bundle(tmp_path / "b", SIZE), make_frames(12)
    with start(build, tmp_path, frames, "RGB3") as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        time.sleep(0.1 * len(frames) + 1.0)
        labels, messages = process.communicate(timeout=60)
    assert process.returncode == 2
    steps = len(labels) // PIXELS
    assert f"{DEVICE} fails after frame {steps}: ".encode() in messages
    assert 3 <= steps < len(frames)
    # Those before the block, then the newest: the state has seen no other.
    kept = [*frames[: steps - 1], frames[-1]]
    assert labels == expected_labels(bundle, np.stack(kept)).tobytes()


def test_camera_ends_with_a_whole_label_map_on_a_signal(build: Build, tmp_path: Path) -> None:
    write_smoothing_bundle(tmp_path / "b", SIZE)
    with start(build, tmp_path, make_frames(200), "RGB3") as process:
        assert process.stdout is not None
        first = process.stdout.read(PIXELS)
        process.terminate()
        labels, messages = process.communicate(timeout=60)
    assert (process.returncode, messages) == (0, b"")
    assert len(first + labels) % PIXELS == 0

"""Networks beside the video families through the commands: run, fleets, serve, FP16, calibration.

A GRU of one's own, VidEoMT and EdgeTAM from transformers, and an ONNX graph with the states of
RobustVideoMatting. That each computes what its origin computes is tested where it is exported:
tests/export/test_own_network_page.py, test_videomt.py, test_edgetam.py and test_onnx_import.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

import streamseg
from streamseg.calibration.calibrating import CalibrationOptions, calibrate
from streamseg.evaluation.clustering import store_given
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import export_bundle
from streamseg.export.onnx_import import import_onnx
from streamseg.export.parity import moving_pattern
from streamseg.runtime.bundle.bundle import read_bundle
from tests.cli.test_run import call
from tests.export import own_networks, test_onnx_import

pytest.importorskip("transformers", reason="VidEoMT and EdgeTAM are made with transformers")
from streamseg.export.models.edgetam import EdgeTAM
from tests.export import test_edgetam, test_videomt

FRAMES = 9  # EdgeTAM's memory of six frames is full after seven


@dataclass(frozen=True)
class Network:
    """Writes its bundle in a precision, for square or other frames of ``size``."""

    write: Callable[[Path, str], object]
    size: tuple[int, int]
    precisions: tuple[str, ...] = ("fp32", "fp16")


def write_edgetam(path: Path, precision: str) -> None:
    side = (test_edgetam.SIDE, test_edgetam.SIDE)
    model = EdgeTAM(test_edgetam.make(), objects=2)
    export_bundle(model, path, size=side, logits=True, precision=precision)
    store_prompts(path)


def store_prompts(path: Path) -> None:
    """Into the bundle, since commands have no frame to prompt on."""
    store_given(path, "points", test_edgetam.POINTS)
    store_given(path, "point_labels", test_edgetam.LABELS)


def write_videomt(path: Path, precision: str) -> None:
    from streamseg.export import load_checkpoint

    origin = path.with_name(f"{path.name}-origin")
    test_videomt.make().save_pretrained(origin)
    processor = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255}
    processor |= {"image_mean": test_videomt.MEAN, "image_std": test_videomt.STD}
    (origin / "video_preprocessor_config.json").write_text(json.dumps(processor))
    model = load_checkpoint(origin)
    export_bundle(model, path, size=test_videomt.SIZE, logits=True, precision=precision)


def write_gru(path: Path, precision: str) -> None:
    model = own_networks.build()
    export_bundle(model, path, size=own_networks.SIZE, logits=True, precision=precision)


def write_matting(path: Path, _: str) -> None:
    graph = path.with_name("rvm.onnx")
    test_onnx_import.write_matting(graph)
    import_onnx(graph, path, test_onnx_import.MATTING, size=test_onnx_import.SIZE)


NETWORKS = {
    "gru": Network(write_gru, own_networks.SIZE),
    "videomt": Network(write_videomt, test_videomt.SIZE),
    "edgetam": Network(write_edgetam, (test_edgetam.SIDE, test_edgetam.SIDE)),
    # An imported graph keeps its precision.
    "matting": Network(write_matting, test_onnx_import.SIZE, ("fp32",)),
}
Bundles = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def bundle_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Bundle of a network in a precision, made once."""
    folder = tmp_path_factory.mktemp("networks")

    def find(name: str, precision: str = "fp32") -> Path:
        path = folder / f"{name}-{precision}"
        if (name, precision) == ("edgetam", "fp32") and not path.exists():
            shutil.copytree(request.getfixturevalue("edgetam_bundle"), path)
            store_prompts(path)
        if not path.exists():
            NETWORKS[name].write(path, precision)
        return path

    return find


def write_images(folder: Path, name: str) -> list[np.ndarray]:
    """A clip as PNG files; gives its RGB frames."""
    folder.mkdir()
    frames = moving_pattern(NETWORKS[name].size, FRAMES)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), frame[..., ::-1])
    return frames


def labels_of(bundle: Path, frames: list[np.ndarray]) -> np.ndarray:
    with streamseg.open(bundle, threads=1) as stream:
        return np.stack([stream.step(frame).labels.copy() for frame in frames])


def read_maps(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*.png"))
    return np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files])


@pytest.mark.parametrize("name", NETWORKS)
def test_run_gives_each_stream_of_a_fleet_its_own_memory(
    bundle_of: Bundles, name: str, tmp_path: Path
) -> None:
    bundle = bundle_of(name, "fp32")
    frames = write_images(tmp_path / "clip", name)
    expected = labels_of(bundle, frames)
    assert len(np.unique(expected)) > 1
    same = ("--scene-cut", "off", "--threads", 1)
    assert call("run", bundle, tmp_path / "clip", "--labels", tmp_path / "alone", *same) == 0
    np.testing.assert_array_equal(read_maps(tmp_path / "alone"), expected)
    two = (f"a={tmp_path / 'clip'}", f"b={tmp_path / 'clip'}")
    assert call("run", bundle, *two, "--labels", tmp_path / "{stream}", *same) == 0
    for stream in "ab":
        np.testing.assert_array_equal(read_maps(tmp_path / stream), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_serve_runs_it(bundle_of: Bundles, name: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")
    height, width = NETWORKS[name].size
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "serve"]
    source = f"cam=synthetic:clean?size={height}x{width}&fps=20"
    options = [str(bundle_of(name, "fp32")), source, "--port", str(port), "--threads", "1"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            program + options,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    end, entry = time.monotonic() + 60, {"frames": 0}
    try:
        while entry["frames"] < FRAMES:
            assert time.monotonic() < end, log.read_text()
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
            try:
                with urlopen(f"http://127.0.0.1:{port}/api/streams", timeout=10) as answer:
                    (entry,) = json.loads(answer.read()) or ({"frames": 0},)
            except OSError:
                continue  # the page is not up yet
    finally:
        server.terminate()
        code = server.wait(30)
    assert code == 128 + signal.SIGTERM, log.read_text()


@pytest.mark.parametrize(
    "name", [n for n, network in NETWORKS.items() if "fp16" in network.precisions]
)
def test_half_precision_gives_nearly_the_same_labels(bundle_of: Bundles, name: str) -> None:
    frames = moving_pattern(NETWORKS[name].size, FRAMES)
    half = bundle_of(name, "fp16")
    assert read_bundle(half).manifest.precision_name == "fp16"
    assert (labels_of(half, frames) == labels_of(bundle_of(name, "fp32"), frames)).mean() > 0.97


@pytest.mark.parametrize("name", NETWORKS)
def test_calibration_gives_nearly_the_same_labels(
    bundle_of: Bundles, name: str, tmp_path: Path
) -> None:
    bundle = bundle_of(name, "fp32")
    frames = write_images(tmp_path / "clip", name)
    dataset = open_dataset(f"footage:{tmp_path / 'clip'}")
    options = CalibrationOptions(clips=1, clip_frames=FRAMES, native=False)
    result = calibrate(bundle, tmp_path / "int8", dataset, options, report=False)
    assert read_bundle(result.path).manifest.precision_name == "int8"
    assert (labels_of(result.path, frames) == labels_of(bundle, frames)).mean() > 0.9

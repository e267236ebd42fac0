"""Every family and precision through TensorRT-RTX's parser and builder, which need no GPU."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest

from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.errors import ExportError
from streamseg.evaluation.datasets import open_dataset
from streamseg.export.engine_build import build_engines, check_precision
from streamseg.export.engine_options import EngineOptions
from streamseg.export.parity import moving_pattern
from streamseg.runtime.bundle.bundle import digest, read_bundle
from tests.conftest import TinyBundle
from tests.export import tiny
from tests.export.test_engines import ROOT, RTX, prepare_plugins
from tests.plugins.cuda_builds import need_tensorrt_headers

BUILD = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from streamseg.export.engine_build import build_engines
from streamseg.export.engine_options import EngineOptions
from streamseg.runtime.bundle.bundle import read_bundle
library, *jobs = sys.argv[1:]
found = []
for job in jobs:
    bundle, precision, out = job.split("=")
    options = EngineOptions(
        flavour="tensorrt_rtx", capabilities=("8.6",), precision=precision or None,
        native=library != "-", library=None if library == "-" else Path(library))
    for entry in build_engines(read_bundle(bundle), out=Path(out), options=options):
        found.append(
            {"path": str(entry.path), "record": asdict(entry.record), **asdict(entry.network)})
assert "torch" not in sys.modules
print(json.dumps(found))
"""
NAMES = {"float32": "FLOAT", "float16": "HALF"}


def build(folder: Path, library: str, *jobs: tuple[Path, str]) -> list[dict[str, Any]]:
    """Build in a process of its own: some faults of a plugin end in a crash of the builder."""
    if not (RTX / "bin/python").exists():
        pytest.skip(f"no TensorRT-RTX at {RTX}; run: make tensorrt-rtx")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment["LD_LIBRARY_PATH"] = str(RTX / "link")
    message = [
        f"{bundle}={precision}={folder / str(i)}" for i, (bundle, precision) in enumerate(jobs)
    ]
    done = subprocess.run(
        [str(RTX / "bin/python"), "-c", BUILD, library, *message],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def check_tensors(entry: dict[str, Any], bundle: Path) -> None:
    """The network's inputs and outputs are the manifest's, whatever the precision."""
    manifest = read_bundle(bundle).manifest
    graph = manifest.graphs[entry["record"]["graph"]]
    wanted = {"frame": ["UINT8", [1, *tiny.SIZE, 3]], "labels": ["UINT8", [1, *tiny.SIZE]]}
    wanted["logits"] = ["FLOAT", [1, tiny.CLASSES, *tiny.SIZE]]
    for name in graph.reads:
        spec = manifest.state_named(name)
        for tensor in spec.inputs(graph.ring_reads.get(name, 1)):
            wanted[tensor] = [NAMES[spec.dtype], list(spec.shape)]
    for name in graph.writes:
        spec = manifest.state_named(name)
        wanted[spec.output] = [NAMES[spec.dtype], list(spec.shape)]
    assert entry["tensors"] == wanted


def check_engine(entry: dict[str, Any]) -> bytes:
    """The file is what was built, and names its inputs and outputs."""
    content = Path(entry["path"]).read_bytes()
    assert digest(content) == entry["record"]["engine_sha256"]
    assert len(content) > 100_000
    assert all(name.encode() in content for name in entry["tensors"])
    return content


# What ONNX's names are in a parsed network.
PARSED = {
    "bilinear": "LINEAR",
    "linear": "LINEAR",
    "nearest": "NEAREST",
    "zeros": "FILL",
    "border": "CLAMP",
    "reflection": "REFLECT",
    "half_pixel": "HALF_PIXEL",
    "align_corners": "ALIGN_CORNERS",
    "asymmetric": "ASYMMETRIC",
}


def check_sampling(entry: dict[str, Any], bundle: Path) -> None:
    """Every GridSample and Resize is parsed into what its ONNX attributes say.

    The nodes are those outside functions, which the plugin graph replaces by plugins.
    """
    model = onnx.load(bundle / f"{entry['record']['graph']}.onnx")
    wanted = [
        described for node in model.graph.node if (described := parse_sampling(node)) is not None
    ]
    by_text = functools.partial(json.dumps, sort_keys=True)
    assert sorted(entry["sampling"], key=by_text) == sorted(wanted, key=by_text)


def parse_sampling(node: onnx.NodeProto) -> dict[str, str] | None:
    """A node's attributes in the words of a parsed network, with ONNX's defaults of opset 20."""
    given = {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute
    }
    text = {name: value.decode() for name, value in given.items() if isinstance(value, bytes)}
    if node.op_type == "GridSample":
        return {
            "kind": "GRID_SAMPLE",
            "interpolation_mode": PARSED[text.get("mode", "linear")],
            "align_corners": str(bool(given.get("align_corners", 0))),
            "sample_mode": PARSED[text.get("padding_mode", "zeros")],
        }
    if node.op_type == "Resize":
        transformation = text.get("coordinate_transformation_mode", "half_pixel")
        return {
            "kind": "RESIZE",
            "resize_mode": PARSED[text.get("mode", "nearest")],
            "coordinate_transformation": PARSED[transformation],
        }
    return None


@pytest.mark.tensorrt
@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if name != "tv3s"])
def test_rtx_builds_every_family_in_both_precisions(
    family: str, tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    need_tensorrt_headers()
    paths = [tiny_bundle(family, precision) for precision in ("fp32", "fp16")]
    found = build(tmp_path, str(prepare_plugins()), *((path, "") for path in paths))
    graphs = len(read_bundle(paths[0]).graphs)
    assert len(found) == 2 * graphs
    for i, entry in enumerate(found):
        half = i >= graphs
        check_tensors(entry, paths[half])
        check_engine(entry)
        assert entry["record"]["precision"] == ("fp16" if half else "fp32")
        assert entry["tf32"] is entry["record"]["tf32"] is False
        check_sampling(entry, paths[half])
        assert (entry["types"].get("HALF", 0) > 50) == half


@pytest.fixture(scope="module")
def street(tiny_bundle: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The TV3S bundle in every precision."""
    folder = tmp_path_factory.mktemp("int8")
    (folder / "clip").mkdir()
    for i, image in enumerate(moving_pattern(tiny.SIZE, 4)):
        cv2.imwrite(str(folder / f"clip/{i}.png"), image)
    calibrate(
        tiny_bundle("tv3s", "fp32"),
        folder / "street",
        open_dataset(f"footage:{folder / 'clip'}", "train", labels=False),
        CalibrationOptions(clips=1, clip_frames=4),
        report=False,
    )
    floats = {precision: tiny_bundle("tv3s", precision) for precision in ("fp32", "fp16")}
    return {**floats, "int8": folder / "street"}


@pytest.mark.tensorrt
def test_rtx_builds_tv3s_with_plugins_in_every_precision(
    street: dict[str, Path], tmp_path: Path
) -> None:
    need_tensorrt_headers()
    jobs = [(street["fp32"], ""), (street["fp16"], ""), (street["int8"], "")]
    jobs += [(street["fp32"], "fp16"), (street["int8"], "fp16")]
    found = build(tmp_path, str(prepare_plugins()), *jobs)
    wanted = ["fp32", "fp16", "int8", "fp16", "int8+fp16"]
    assert [entry["record"]["precision"] for entry in found] == wanted
    for entry, (bundle, _) in zip(found, jobs, strict=True):
        check_tensors(entry, bundle)
        content = check_engine(entry)
        assert entry["record"]["graph_sha256"] == digest(read_bundle(bundle).graphs["step"])
        assert entry["layers"]["PLUGIN_V3"] == 5, "two convolutions, two scans, one argmax"
        assert b"WindowedSelectiveScan" in content
    full, half, quantised, converted, mixed = found
    assert full["types"].get("HALF", 0) == 0
    assert half["types"] == converted["types"]
    assert half["types"]["HALF"] > half["types"]["FLOAT"] > 0, "islands in float32"
    assert quantised["layers"]["QUANTIZE"] == mixed["layers"]["QUANTIZE"] > 0
    assert quantised["layers"]["DEQUANTIZE"] > quantised["layers"]["QUANTIZE"]
    assert (quantised["types"].get("HALF", 0), mixed["types"]["HALF"] > 50) == (0, True)


@pytest.mark.tensorrt
def test_rtx_builds_the_lowering_in_float16(street: dict[str, Path], tmp_path: Path) -> None:
    (entry,) = build(tmp_path, "-", (street["fp16"], ""))
    check_tensors(entry, street["fp16"])
    check_engine(entry)
    assert "PLUGIN_V3" not in entry["layers"]
    assert entry["record"]["plugins_sha256"] == ""


@pytest.mark.parametrize(
    ("have", "wanted", "command"),
    [
        ("fp16", "fp32", "streamseg export CHECKPOINT --precision fp32"),
        ("fp32", "int8", "streamseg calibrate FLOAT32_BUNDLE"),
    ],
)
def test_impossible_precision_names_the_command_that_makes_it(
    have: str, wanted: str, command: str, tiny_bundle: TinyBundle
) -> None:
    bundle = read_bundle(tiny_bundle("tv3s", have))
    assert check_precision(bundle, None) == check_precision(bundle, have) == have
    with pytest.raises(ExportError, match=f"is {have}, which cannot become {wanted}.*{command}"):
        check_precision(bundle, wanted)


@pytest.mark.parametrize("inside", ["", "engines"])
def test_engines_are_not_put_into_a_bundle(inside: str, tiny_bundle: TinyBundle) -> None:
    bundle = read_bundle(tiny_bundle("tv3s", "fp32"))
    with pytest.raises(ExportError, match="choose a folder outside the bundle"):
        build_engines(bundle, out=bundle.path / inside)
    assert not (bundle.path / "engines").exists()


def test_places_are_checked_before_anything_is_built(
    tmp_path: Path, tiny_bundle: TinyBundle
) -> None:
    bundle = read_bundle(tiny_bundle("tv3s", "fp32"))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ExportError, match=f"cannot make the folder {file}/engines"):
        build_engines(bundle, out=file / "engines")
    options = EngineOptions(timing_cache=tmp_path)
    with pytest.raises(ExportError, match=f"cannot write {tmp_path}: it is a folder"):
        build_engines(bundle, out=tmp_path / "engines", options=options)

"""Graphs for TensorRT, real builds with TensorRT-RTX (which needs no GPU), and engine records."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from streamseg.errors import EngineMismatch, ExportError
from streamseg.export import export_bundle, load_checkpoint
from streamseg.export.tensorrt_graph import lowered_graph, plugin_graph
from streamseg.plugins.table import GEOMETRY, OPERATORS
from streamseg.runtime.backends.engine_files import (
    EngineRecord,
    Machine,
    read_engine,
    sidecar_of,
    write_engine,
)
from streamseg.runtime.backends.gpu import Gpu
from streamseg.runtime.bundle.bundle import digest
from tests.export.golden import read_golden
from tests.plugins.cuda_builds import build_cuda, need_tensorrt_headers, write_records

ROOT = Path(__file__).resolve().parents[2]
RTX = Path(os.environ.get("STREAMSEG_RTX", ROOT / "build/rtx"))


@pytest.fixture(scope="module")
def street(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("street")
    golden = read_golden(shared, "tv3s_mit_b0_tiny")
    model = load_checkpoint(
        golden.save_checkpoint(folder / "x.pth"), settings={"window": 4, "shift": 2}
    )
    export_bundle(model, folder / "street", size=(96, 128))
    return folder / "street"


@pytest.fixture(scope="module")
def model(street: Path) -> onnx.ModelProto:
    return onnx.load(street / "step.onnx")


@pytest.mark.data
def test_plugin_graph_has_the_inputs_and_attributes_that_plugins_read(
    model: onnx.ModelProto,
) -> None:
    graph = plugin_graph(model)
    assert not graph.functions
    nodes = [node for node in graph.graph.node if node.domain == "streamseg"]
    assert len(nodes) == 17, "eight convolutions, eight scans, one argmax"
    originals = {node.name: node for node in model.graph.node}
    for node in nodes:
        expected = len(OPERATORS[node.op_type].inputs)
        assert list(node.input) == list(originals[node.name].input)[:expected]
        values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        assert values.pop("plugin_namespace") == b"streamseg"
        assert values.pop("plugin_version") == b"1"
        names = ("height", "width") if node.op_type == "UpsampleArgmax" else GEOMETRY
        assert set(values) == set(names)
        assert all(isinstance(value, int) for value in values.values())
    assert not [entry for entry in graph.graph.initializer if entry.name.startswith("cells.")]


@pytest.mark.data
def test_graphs_for_tensorrt_cast_right_behind_and_before_uint8(model: onnx.ModelProto) -> None:
    for graph in (plugin_graph(model), lowered_graph(model)):
        readers = [node.op_type for node in graph.graph.node if "frame" in node.input]
        writers = [node.op_type for node in graph.graph.node if "labels" in node.output]
        assert (readers, writers) == (["Cast"], ["Cast"])


@pytest.mark.data
def test_graphs_for_tensorrt_keep_names_and_leave_the_model_alone(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    for graph in (plugin_graph(model), lowered_graph(model)):
        for side in ("input", "output"):
            found = [entry.name for entry in getattr(graph.graph, side)]
            assert found == [entry.name for entry in getattr(model.graph, side)]
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.data
def test_lowered_graph_computes_the_same(model: onnx.ModelProto) -> None:
    import onnxruntime

    rng = np.random.default_rng(0)
    feed = {}
    for entry in model.graph.input:
        shape = [axis.dim_value for axis in entry.type.tensor_type.shape.dim]
        wide = rng.integers(0, 256, shape) if entry.name == "frame" else rng.normal(size=shape)
        feed[entry.name] = wide.astype(np.uint8 if entry.name == "frame" else np.float32)
    outputs = [
        onnxruntime.InferenceSession(
            content.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, feed)
        for content in (model, lowered_graph(model))
    ]
    for got, want in zip(*outputs, strict=True):
        assert np.allclose(got, want, atol=1e-4)


def test_plugin_graph_refuses_an_operator_without_plugin() -> None:
    node = onnx.helper.make_node("Mystery", ["x"], ["y"], domain="streamseg", name="odd")
    graph = onnx.helper.make_graph([node], "g", [], [])
    with pytest.raises(ExportError, match=r"'odd' is a Mystery.*no TensorRT plugin"):
        plugin_graph(onnx.helper.make_model(graph))


BUILD = """
import sys
from pathlib import Path
from streamseg.export.engine_build import build_engines
from streamseg.export.engine_options import EngineOptions
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.plugins.table import GEOMETRY, OPERATORS
bundle, out, library, capability = sys.argv[1:]
phases = []
options = EngineOptions(
    flavour="tensorrt_rtx", capabilities=(capability,), workspace=1 << 10,
    native=library != "-", library=None if library == "-" else Path(library),
    progress=lambda phase, step, steps: phases.append(phase) or True)
build_engines(read_bundle(bundle), out=Path(out), options=options)
assert phases, "no progress was message"
assert "torch" not in sys.modules
"""


def build_with_rtx(
    bundle: Path, out: Path, library: str, capability: str = "8.6", *, linked: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a build in its own process: some faults of a plugin end in a crash of the builder."""
    if not (RTX / "bin/python").exists():
        pytest.skip(f"no TensorRT-RTX at {RTX}; run: make tensorrt-rtx")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment["LD_LIBRARY_PATH"] = str(RTX / "link") if linked else ""
    return subprocess.run(
        [str(RTX / "bin/python"), "-c", BUILD, str(bundle), str(out), library, capability],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.data
@pytest.mark.tensorrt
def test_rtx_builds_the_plugin_graph(street: Path, tmp_path: Path) -> None:
    need_tensorrt_headers()
    library = prepare_plugins()
    done = build_with_rtx(street, tmp_path, str(library))
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "step.engine").read_bytes()
    record = json.loads((tmp_path / "step.json").read_text())
    assert record["flavour"] == "tensorrt_rtx"
    assert record["capabilities"] == ["8.6"]
    assert record["precision"] == "fp32"
    assert record["engine_sha256"] == digest(content)
    assert record["plugins_sha256"]
    # The serialised plan names the plugins that it needs.
    assert b"WindowedSelectiveScan" in content
    assert b"WindowedCausalConv" in content


def prepare_plugins() -> Path:
    """The plugin library as ``setup.py build_cuda`` leaves it: with its record."""
    folder, _ = build_cuda()
    write_records(folder)
    return folder / "libstreamseg_tensorrt.so"


@pytest.mark.data
@pytest.mark.tensorrt
def test_rtx_builds_the_lowered_graph(street: Path, tmp_path: Path) -> None:
    done = build_with_rtx(street, tmp_path, "-", "8.9")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "step.json").read_text())
    assert (record["capabilities"], record["plugins_sha256"]) == (["8.9"], "")


@pytest.mark.data
@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("capability", "linked", "message"),
    [
        ("9.0", True, "builds for no compute capability 9.0; it has SM75"),
        ("8.6", False, "Make a folder with a link libtensorrt_rtx.so"),
    ],
)
def test_rtx_mistakes_are_reported(
    street: Path, tmp_path: Path, capability: str, linked: bool, message: str
) -> None:
    need_tensorrt_headers()
    done = build_with_rtx(street, tmp_path, str(prepare_plugins()), capability, linked=linked)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "step.engine").exists()


GRAPH = b"graph"
ORIN = Gpu("Orin", "8.7", "12.6")
HERE = Machine("tensorrt", "10.3.0", ORIN, "p" * 64)
ENGINE = b"engine bytes"
RECORD = EngineRecord(
    graph="step",
    graph_sha256=digest(GRAPH),
    flavour="tensorrt",
    version="10.3.0",
    gpu="Orin",
    capabilities=("8.7",),
    driver="12.6",
    precision="fp16",
    plugins_sha256="p" * 64,
    engine_sha256=digest(ENGINE),
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "step.engine"
    write_engine(path, ENGINE, RECORD)
    return path


def test_engine_that_fits_is_read(engine: Path) -> None:
    assert read_engine(engine, graph=GRAPH, machine=HERE) == ENGINE
    newer = replace(HERE, gpu=replace(ORIN, driver="13.0"))
    assert read_engine(engine, graph=GRAPH, machine=newer) == ENGINE


@pytest.mark.parametrize(
    ("graph", "machine", "message"),
    [
        (b"other", HERE, "the bundle was exported again"),
        (GRAPH, replace(HERE, version="11.4"), "tensorrt 10.3.0; this machine has tensorrt 11.4"),
        (GRAPH, replace(HERE, flavour="tensorrt_rtx"), "this machine has tensorrt_rtx 10.3.0"),
        (GRAPH, replace(HERE, gpu=None), "no NVIDIA GPU was found"),
        (
            GRAPH,
            replace(HERE, gpu=Gpu("RTX 4090", "8.9", "12.6")),
            r"for 'Orin' \(8.7\); this machine has 'RTX 4090' \(8.9\)",
        ),
        (GRAPH, replace(HERE, gpu=Gpu("Other", "8.7", "12.6")), r"has 'Other' \(8.7\)"),
        (GRAPH, replace(HERE, gpu=replace(ORIN, driver="12.2")), "older and supports 12.2"),
        (GRAPH, replace(HERE, plugins_sha256="q" * 64), "plugin library pppppppppppp"),
        (GRAPH, replace(HERE, plugins_sha256=""), "is missing"),
    ],
)
def test_every_mismatch_is_its_own_error(
    engine: Path, graph: bytes, machine: Machine, message: str
) -> None:
    with pytest.raises(EngineMismatch, match=message) as caught:
        read_engine(engine, graph=graph, machine=machine, bundle="street/")
    assert "Run: streamseg" in str(caught.value)


def test_rtx_engine_runs_on_every_listed_capability(engine: Path) -> None:
    portable = replace(
        RECORD, flavour="tensorrt_rtx", gpu="", capabilities=("8.6", "8.9"), version="1.7.1"
    )
    write_engine(engine, ENGINE, portable)
    here = Machine("tensorrt_rtx", "1.7.1", Gpu("any", "8.9", "13.0"), "p" * 64)
    assert read_engine(engine, graph=GRAPH, machine=here) == ENGINE
    with pytest.raises(EngineMismatch, match=r"for compute 8.6, 8.9; this machine has 'Orin'"):
        read_engine(engine, graph=GRAPH, machine=replace(here, gpu=ORIN))


def test_truncated_engine_is_refused(engine: Path) -> None:
    engine.write_bytes(ENGINE[:-1])
    with pytest.raises(EngineMismatch, match="cut short or changed"):
        read_engine(engine, graph=GRAPH, machine=HERE)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 1}', '{"format": 2}'])
def test_damaged_sidecar_is_refused(engine: Path, content: str | None) -> None:
    if content is None:
        sidecar_of(engine).unlink()
    else:
        sidecar_of(engine).write_text(content)
    with pytest.raises(EngineMismatch, match="sidecar"):
        read_engine(engine, graph=GRAPH, machine=HERE)


def test_build_time_is_read_and_may_be_missing(engine: Path) -> None:
    write_engine(engine, ENGINE, replace(RECORD, build_seconds=183.4))
    found = json.loads(sidecar_of(engine).read_text())
    assert found["build_seconds"] == 183.4
    read_engine(engine, graph=GRAPH, machine=HERE)
    del found["build_seconds"]
    sidecar_of(engine).write_text(json.dumps(found))
    read_engine(engine, graph=GRAPH, machine=HERE)
    sidecar_of(engine).write_text(json.dumps({**found, "build_seconds": "long"}))
    with pytest.raises(EngineMismatch, match="'build_seconds' is not a number"):
        read_engine(engine, graph=GRAPH, machine=HERE)


def test_key_ignores_measurements_and_nothing_else() -> None:
    assert replace(RECORD, engine_sha256="x", build_seconds=9.0).key == RECORD.key
    for field in ("graph_sha256", "version", "gpu", "precision", "plugins_sha256", "driver"):
        assert replace(RECORD, **{field: "other"}).key != RECORD.key

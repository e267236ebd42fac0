"""What ``streamseg web`` writes, and that the committed builds are those of the sources."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from streamseg.cli.main import cli
from streamseg.errors import ExportError
from streamseg.export import export_bundle
from streamseg.export.graph_parts import KernelPart, SessionPart, split_graph
from streamseg.export.ops import (
    windowed_causal_conv_reference,
    windowed_selective_scan_reference,
)
from streamseg.export.windows import WindowGeometry
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.web.onnxruntime_package import find_package
from streamseg.web.site import parse_graph, write_site
from tests.conftest import ROOT
from tests.export import tiny
from tests.runtime.smoothing import write_smoothing_bundle
from tests.web.conftest import PACKAGE

with_package = pytest.mark.skipif(
    not PACKAGE.is_dir(), reason="no onnxruntime-web: run make web-tools"
)


@pytest.fixture(scope="module")
def tv3s(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web") / "tv3s"
    export_bundle(tiny.build("tv3s"), path, size=tiny.SIZE, logits=True)
    return path


def run_kernel(part: KernelPart, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The operator in plain PyTorch."""
    geometry = WindowGeometry(**part.geometry)
    inputs = [torch.from_numpy(values[name]) for name in part.inputs]
    constants = [torch.from_numpy(array.copy()) for array in part.constants.values()]
    if part.operator == "WindowedCausalConv":
        x, state = inputs
        found = windowed_causal_conv_reference(x, *constants, state, geometry)
    else:
        u, dt, b, c, z, state = inputs
        dt_bias, a, skip = constants
        found = windowed_selective_scan_reference(u, dt, dt_bias, a, b, c, skip, z, state, geometry)
    return {name: t.numpy() for name, t in zip(part.outputs, found, strict=True)}


def test_parts_compute_what_the_whole_graph_computes(tv3s: Path) -> None:
    bundle = read_bundle(tv3s)
    content = bundle.graphs["step"]
    rng = np.random.default_rng(0)
    values = {"frame": rng.integers(0, 256, (1, *tiny.SIZE, 3), np.uint8)}
    for spec in bundle.manifest.state:
        values[f"{spec.name}.in"] = rng.normal(0, 0.1, spec.shape).astype(np.float32)
    whole = onnxruntime.InferenceSession(content)
    names = [entry.name for entry in whole.get_outputs()]
    expected = dict(zip(names, whole.run(names, values), strict=True))
    for part in split_graph(parse_graph(content)):
        if isinstance(part, KernelPart):
            values |= run_kernel(part, values)
        else:
            session = onnxruntime.InferenceSession(part.model.SerializeToString())
            feeds = {name: values[name] for name in part.inputs}
            values |= dict(zip(part.outputs, session.run(part.outputs, feeds), strict=True))
    for name in names:
        np.testing.assert_allclose(values[name], expected[name], atol=2e-5, err_msg=name)


def test_every_node_is_in_exactly_one_part(tv3s: Path) -> None:
    model = parse_graph(read_bundle(tv3s).graphs["step"])
    parts = split_graph(model)
    outputs = [
        name
        for part in parts
        for name in (
            [n for node in part.model.graph.node for n in node.output]
            if isinstance(part, SessionPart)
            else part.outputs
        )
    ]
    assert sorted(outputs) == sorted(n for node in model.graph.node for n in node.output)


def test_graphs_without_windowed_operators_are_not_split(tmp_path: Path) -> None:
    write_smoothing_bundle(tmp_path / "b", (16, 24))
    (part,) = split_graph(parse_graph(read_bundle(tmp_path / "b").graphs["step"]))
    assert isinstance(part, SessionPart)


def test_half_precision_is_refused_with_the_reason(tmp_path: Path) -> None:
    export_bundle(tiny.build("tv3s"), tmp_path / "half", size=tiny.SIZE, precision="fp16")
    with pytest.raises(ExportError, match="is float16, expected float; use a bundle in float32"):
        split_graph(parse_graph(read_bundle(tmp_path / "half").graphs["step"]))


@with_package
def test_command_writes_a_site_whose_files_have_their_hashes(tv3s: Path, tmp_path: Path) -> None:
    options = ["web", str(tv3s), "-o", str(tmp_path / "site"), "--onnxruntime-web", str(PACKAGE)]
    done = CliRunner().invoke(cli, options, catch_exceptions=False)
    assert done.exit_code == 0
    assert "4 operators as kernels" in done.output
    parts = json.loads((tmp_path / "site/bundle/web.json").read_text())
    for name in parts["files"]:
        assert (tmp_path / "site/bundle" / name).is_file()
    for name in ("index.html", "streamseg/worker.js", "streamseg/kernels.wasm", "ort/NOTICE.txt"):
        assert (tmp_path / "site" / name).is_file(), name


@with_package
def test_folder_with_content_is_not_overwritten(tv3s: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an empty folder"):
        write_site(read_bundle(tv3s), tmp_path, PACKAGE)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match=r"has no dist/ort\.wasm\.min\.mjs"):
        find_package(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match="npm was not found: install Node"):
        find_package()


@with_package
def test_committed_scripts_are_compiled_from_their_sources(tmp_path: Path) -> None:
    compiler = ROOT / "web/node_modules/.bin/tsc"
    command = [str(compiler), "-p", str(ROOT / "web"), "--outDir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for written in tmp_path.iterdir():
        assert written.read_text() == (ROOT / "web/dist" / written.name).read_text(), written.name


@pytest.mark.skipif(shutil.which("clang-14") is None, reason="no clang-14: run make web-tools")
def test_committed_kernels_are_compiled_from_their_sources(tmp_path: Path) -> None:
    subprocess.run([ROOT / "web/kernel/build.sh", tmp_path / "kernels.wasm"], check=True)
    assert (tmp_path / "kernels.wasm").read_bytes() == (ROOT / "web/kernels.wasm").read_bytes()

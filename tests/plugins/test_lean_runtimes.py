"""Our plugin library in real TensorRT runtimes, oldest to newest, without a GPU.

The lean runtimes have no builder and no parser; TensorRT-RTX's cover those. Their Python bindings
cannot call a C++ plugin's output types, shapes and format combinations: RTX's builder and the
headers-only host do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.cuda_builds import ROOT, build_twin, need_tensorrt_headers
from tests.runtime.backends.fake_tensorrt import names_used

VERSIONS = ("10.15.1.29", "10.16.1.11", "11.0.0.114", "11.2.1.2", "11.4.0.106")
FOLDER = Path(os.environ.get("STREAMSEG_TENSORRT_LEAN", ROOT / "build/tensorrt_lean"))


@pytest.fixture(scope="module", params=VERSIONS)
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the probe reports of one version."""
    folder = FOLDER / request.param
    if not (folder / "tensorrt_lean_bindings").is_dir():
        pytest.skip(f"no lean TensorRT {request.param} in {folder}; run: make tensorrt-lean")
    need_tensorrt_headers()
    library = build_twin() / "libstreamseg_tensorrt_twin.so"
    text = tmp_path_factory.mktemp("lean") / "text.so"
    text.write_text("no library")
    probe = Path(__file__).with_name("lean_probe.py")
    names = json.dumps(names_used(rtx=False))
    done = subprocess.run(
        [sys.executable, str(probe), str(folder), str(library), str(text), names],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["version"] == request.param
    return report


@pytest.mark.tensorrt
def test_creators_fields_and_capabilities(found: dict[str, Any]) -> None:
    geometry = ["map_h", "map_w", "window_h", "window_w", "offset_h", "offset_w"]
    fields = {
        "WindowedCausalConv": geometry,
        "WindowedSelectiveScan": geometry,
        "UpsampleArgmax": ["height", "width"],
    }
    assert set(found["plugins"]) == set(fields)
    for name, entry in found["plugins"].items():
        assert entry["creator"] == "IPluginCreatorV3One"
        assert entry["fields"] == [[field, "INT32", 1] for field in fields[name]]
        assert entry["core"] == [name, "1", "streamseg"]
        assert entry["runtime"] == "IPluginV3OneRuntime"
        assert entry["outputs"] == (1 if name == "UpsampleArgmax" else 2)


@pytest.mark.tensorrt
def test_wrong_fields_are_refused(found: dict[str, Any]) -> None:
    for name, entry in found["plugins"].items():
        assert all(entry["refused"].values()), (name, entry["refused"])


@pytest.mark.tensorrt
def test_registry_rejects_a_file_that_is_not_a_library_and_drops_our_creators(
    found: dict[str, Any],
) -> None:
    assert "does not load plugin library" in found["foreign"]
    assert found["left"] == []


@pytest.mark.tensorrt
def test_plugins_of_another_build_are_refused_and_unknown_ones_reported(
    found: dict[str, Any],
) -> None:
    assert "has loaded another build" in found["another"]
    assert "cannot be checked" in found["unknown"][0]
    assert not found["same"]


@pytest.mark.tensorrt
def test_every_runtime_name_that_the_backend_calls_exists(found: dict[str, Any]) -> None:
    assert found["missing"] == []

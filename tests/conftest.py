"""What all tests share: the folder of fixtures, the marker that skips without it, the summary."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.summary import write_summary

ROOT = Path(__file__).resolve().parent.parent
# Which backend is faster depends on the hour; tests of the choice take this away.
os.environ.setdefault("STREAMSEG_CPU_BACKEND", "onnxruntime")
# Generated inputs take longer on a busy machine, which is no fault of theirs.
settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machine")
SHARED = Path(os.environ.get("STREAMSEG_SHARED", ROOT.parent / "shared"))

MAMBA = ROOT / "build/mamba_ssm/mamba_ssm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if (SHARED / "golden").is_dir():
        return
    skip = pytest.mark.skip(reason=f"no fixtures at {SHARED}; set STREAMSEG_SHARED")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write_summary(terminalreporter)


NO_OPENVINO = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (extra dev)"
)
# Ways to open a bundle on the CPU in float32.
CPU_OPENINGS: list[Any] = [
    pytest.param({"backend": "onnxruntime", "native": False}, id="lowering"),
    pytest.param({"backend": "onnxruntime", "native": True}, id="native"),
    pytest.param(
        {"backend": "openvino", "precision": "fp32", "native": False},
        id="openvino-lowering",
        marks=NO_OPENVINO,
    ),
    pytest.param(
        {"backend": "openvino", "precision": "fp32", "native": True},
        id="openvino-native",
        marks=NO_OPENVINO,
    ),
]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures, footage and checkpoints; use with the ``data`` marker."""
    return SHARED


@pytest.fixture(scope="session")
def selective_scan_ref() -> Callable[..., Any]:
    """mamba_ssm's reference in PyTorch; what it imports for CUDA alone is left empty."""
    if not MAMBA.is_dir():
        pytest.skip("mamba_ssm's source is missing: make mamba-reference")
    empty = {
        "mamba_ssm": {"__path__": [str(MAMBA)]},
        "mamba_ssm.ops": {"__path__": [str(MAMBA / "ops")]},
        "mamba_ssm.ops.triton": {"__path__": []},
        "mamba_ssm.ops.triton.layer_norm": {"_layer_norm_fwd": None},
        "selective_scan_cuda": {},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, content in empty.items():
            module = types.ModuleType(name)
            module.__dict__.update(content)
            patch.setitem(sys.modules, name, module)
        path = MAMBA / "ops/selective_scan_interface.py"
        spec = importlib.util.spec_from_file_location("mamba_reference", path)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    reference: Callable[..., Any] = found.selective_scan_ref
    return reference


# Function of family and precision: the folder of a bundle.
TinyBundle = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def edgetam_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small EdgeTAM for two objects, without prompts, exported once; not to be modified."""
    from streamseg.export import export_bundle
    from streamseg.export.models.edgetam import EdgeTAM
    from tests.export.test_edgetam import SIDE, make

    path = tmp_path_factory.mktemp("edgetam") / "bundle"
    export_bundle(EdgeTAM(make(), objects=2), path, size=(SIDE, SIDE), logits=True)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """Bundles of the tiny models, each exported once for all tests."""
    folder = tmp_path_factory.mktemp("tiny")

    def export(family: str, precision: str) -> Path:
        from streamseg.export import export_bundle
        from tests.export import tiny

        path = folder / f"{family}-{precision}"
        if not path.exists():
            export_bundle(
                tiny.build(family), path, size=tiny.SIZE, logits=True, precision=precision
            )
        return path

    return export

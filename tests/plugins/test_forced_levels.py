"""Every instruction set of this machine, forced, through the shells of both CPU runtimes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamseg.errors import PluginNotFound
from streamseg.plugins.native import load
from tests.plugins.test_narrow_maps import (
    OPERATORS,
    Array,
    find_extension,
    model,
    operands,
    run_onnxruntime,
)

try:
    OPS = load()
except PluginNotFound as reason:
    pytest.skip(str(reason), allow_module_level=True)
FLOAT = 1  # TensorProto.FLOAT
PROGRAM = """
import sys
import numpy as np
from tests.plugins.test_forced_levels import run_all
from tests.plugins.test_narrow_maps import run_openvino

np.savez(sys.argv[1], **run_all(run_openvino))
"""


def run_all(run: Callable[[bytes, dict[str, Array]], list[Array]]) -> dict[str, Array]:
    """Outputs of every operator, named."""
    found = {}
    for name, op in OPERATORS.items():
        arrays = operands(op)
        for index, array in enumerate(run(model(op, arrays, FLOAT), arrays)):
            found[f"{name}.{index}"] = array
    return found


def at_level(level: str) -> dict[str, Array]:
    OPS.select_level(level)
    try:
        return run_all(run_onnxruntime)
    finally:
        OPS.select_level(None)


@pytest.fixture(scope="module")
def scalar() -> dict[str, Array]:
    return at_level("scalar")


@pytest.mark.parametrize("level", [level for level in OPS.levels if level != "scalar"])
def test_levels_in_onnxruntime_agree_with_scalar(level: str, scalar: dict[str, Array]) -> None:
    """The lowering, in test_ort.py, is the independent comparison of the default level."""
    found = at_level(level)
    for name, want in scalar.items():
        assert np.abs(found[name] - want).max() <= 4e-6 * np.abs(want).max(), name
    assert any(not np.array_equal(found[name], want) for name, want in scalar.items())


@pytest.mark.parametrize("level", [level for level in ("scalar", "avx2") if level in OPS.levels])
def test_level_of_the_environment_holds_in_openvino(
    level: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    find_extension()  # skips without it
    target = tmp_path / "outputs.npz"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(target)],
        check=True,
        cwd=request.config.rootpath,
        env=os.environ | {"STREAMSEG_CPU_LEVEL": level},
    )
    found = np.load(target)
    for name, want in at_level(level).items():
        np.testing.assert_array_equal(found[name], want, err_msg=name)

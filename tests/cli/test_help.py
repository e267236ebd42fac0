"""Every command's help works in every set of extras, and plots are needed for plots only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.cli.main import COMMANDS, run
from tests.conftest import ROOT
from tests.runtime.clips import write_folder
from tests.runtime.toy import write_toy_bundle

# Packages that no extra-less installation has, by the extra that brings them.
EXTRAS = {
    "cpu": ("onnxruntime",),
    "export": ("torch", "transformers", "onnx", "onnxscript", "onnx_ir"),
    "eval": ("matplotlib",),
    "train": ("accelerate", "matplotlib"),
    "batch": ("fsspec", "pyarrow"),
    "ray": ("ray",),
    "serve": ("aiohttp", "prometheus_client"),
    "triton": ("tritonclient",),
    "cuda": ("cuda",),
    "tensorrt": ("tensorrt", "tensorrt_rtx"),
}
SETS = [(), ("cpu",), ("export",), ("cpu", "batch"), ("cpu", "serve"), ("cpu", "export", "eval")]
HIDE = """
import sys
sys.modules.update(dict.fromkeys(HIDDEN))  # None: as if not installed
"""
EVERY_HELP = """
from streamseg.cli.main import COMMANDS, cli
for name in COMMANDS:
    cli.main(args=[name, "--help"], standalone_mode=False)
"""


def run_without(hidden: set[str], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process where ``hidden`` packages are not installed."""
    script = f"HIDDEN = {sorted(hidden)!r}\n{HIDE}\n{code}"
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("extras", SETS, ids=lambda names: "+".join(names) or "none")
def test_every_help_works_in_every_set_of_extras(extras: tuple[str, ...]) -> None:
    present = {package for extra in extras for package in EXTRAS[extra]}
    hidden = {package for packages in EXTRAS.values() for package in packages} - present
    found = run_without(hidden, EVERY_HELP)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.count("Usage:") >= 14


def test_calibrate_without_onnx_names_the_extra(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    write_folder(tmp_path / "clip", [(48, 64)] * 2)
    code = "from streamseg.cli.main import run; run(sys.argv[1:])"
    footage = f"footage:{tmp_path / 'clip'}"
    arguments = ("calibrate", str(bundle), "-o", str(tmp_path / "y"), "--dataset", footage)
    found = run_without({"onnx"}, code, *arguments)
    assert found.returncode == 2
    assert "[export]'" in found.stderr.partition("Run: pip install ")[2]
    assert "Traceback" not in found.stderr


def test_only_plots_need_matplotlib(tmp_path: Path) -> None:
    code = "from streamseg.cli.main import run; run(sys.argv[1:])"
    given = ("eval", str(tmp_path / "absent"), "--dataset", "synthetic:easy?scenes=1&frames=2")
    assert "does not exist" in run_without({"matplotlib"}, code, *given).stderr
    refused = run_without({"matplotlib"}, code, *given, "-o", str(tmp_path / "plots"))
    assert "plots need matplotlib" in refused.stderr


def test_table_of_certainty_has_every_command() -> None:
    table = (ROOT / "docs/certainty.md").read_text(encoding="utf-8")
    cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert [name for name in COMMANDS if f"`{name}" not in cells] == []


def test_models_describes_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "samples/street/street.safetensors"
    with pytest.raises(SystemExit):
        run(["models", str(path)])
    message = capsys.readouterr().out
    assert "  window: 2\n  shift: 1\n" in message
    assert "training size: 256x512" in message
    assert "assumed" not in message

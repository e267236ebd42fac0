"""Tests with the oldest and the newest releases that pyproject.toml allows.

uv resolves the extras cpu and export twice, with ``--resolution lowest-direct`` and ``highest``,
into fresh environments; the tests of the main path run in each. ``--json`` keeps what was
installed and whether the tests passed, and beside it a page. Needs uv.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/cli/test_run.py",
    "tests/export/test_checkpoint.py",
    "tests/export/test_against_transformers.py",
    "tests/runtime/test_stream.py",
)
# What the tests need beside the product; not under test, so always the newest.
TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis", "pillow", "einops")
SHOWN = (
    "torch", "transformers", "huggingface-hub", "onnx", "onnxscript", "onnxruntime", "numpy",
    "opencv-python-headless", "av", "safetensors", "click", "rich",
)  # fmt: skip


def uv(*arguments: str) -> str:
    """Run uv; its output. The program ends where it fails."""
    done = subprocess.run(
        [shutil.which("uv") or "uv", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"uv {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def try_end(resolution: str, python: str, fixed: list[str]) -> dict[str, object]:
    """Install one end of the ranges and run the tests there."""
    place = ROOT / "build" / f"venv-{resolution}"
    shutil.rmtree(place, ignore_errors=True)
    uv("venv", "-q", "--no-project", "--python", python, str(place))
    install = ("pip", "install", "-q", "--python", str(place))
    uv(*install, "--resolution", resolution, "-e", ".[cpu,export]", *fixed, "scipy>=1.11")
    uv(*install, *TOOLS)
    listed = json.loads(uv("pip", "list", "--python", str(place), "--format", "json"))
    versions = {entry["name"]: entry["version"] for entry in listed}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    # Warnings of old releases are not ours to fix.
    command = [str(place / "bin/python"), "-m", "pytest", "-W", "default", "--tb=short"]
    done = subprocess.run(
        [*command, *TESTS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        print(done.stdout[-6000:], file=sys.stderr)
    return {
        "resolution": resolution,
        "versions": {name: versions.get(name, "-") for name in SHOWN},
        "passed": done.returncode == 0,
    }


def write_page(path: Path, python: str, ends: list[dict[str, object]], note: str = "") -> None:
    """Both ends as JSON and, beside it, as a table."""
    content = {"python": python, "ends": ends, "note": note}
    path.write_text(json.dumps(content, indent=1) + "\n")
    heads = [str(end["resolution"]) for end in ends]
    rows = [[name, *(end["versions"][name] for end in ends)] for name in SHOWN]  # type: ignore[index]
    rows.append(["**tests**", *("passed" if end["passed"] else "failed" for end in ends)])
    lines = [
        "# Version ranges",
        "",
        f"Tests of the main path on Python {python} with the oldest (`lowest-direct`) and the "
        "newest releases that `pyproject.toml` allows for `[cpu,export]`.",
        "",
        f"| package | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        *(("", note) if note else ()),
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.11", help="version or path")
    parser.add_argument("--fixed", nargs="*", default=[], help="requirements for both ends")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--note", default="", help="a sentence for the page")
    arguments = parser.parse_args()
    ends = [
        try_end(resolution, arguments.python, arguments.fixed)
        for resolution in ("lowest-direct", "highest")
    ]
    print(json.dumps(ends, indent=1))
    if arguments.json is not None:
        write_page(arguments.json, arguments.python, ends, arguments.note)
    if not all(end["passed"] for end in ends):
        raise SystemExit("tests fail at one end of the ranges")


if __name__ == "__main__":
    main()

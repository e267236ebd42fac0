"""Install a wheel with each extra in fresh environments: benchmarks/installation.py WHEEL.

There is no compiler in PATH. Each environment passes ``pip check`` and runs a probe of its extra;
the CPU backends must reproduce the labels of the conformance set. Extras that need a GPU's
libraries are only resolved. pip installs the extras of ``PIP``, uv all of them. ``--pythons``,
``--extras`` and ``--tools`` select fewer cells; ``--json`` writes the table, with a page next to
it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CONFORMANCE = """
import json, pathlib, numpy, streamseg
for name in ("carry", "ring", "operators"):
    folder = pathlib.Path({data!r}) / name
    about = json.loads((folder / "case.json").read_text())
    shape = about["steps"], about["height"], about["width"]
    frames = numpy.fromfile(folder / "frames.bin", numpy.uint8).reshape(*shape, 3)
    labels = numpy.fromfile(folder / "labels.bin", numpy.uint8).reshape(shape)
    kept, steps = {{}}, zip(frames, labels)
    with streamseg.open(folder / "bundle", backend={backend!r}, **{options}) as stream:
        for verb, _, place in (action.partition(" ") for action in about["actions"]):
            if verb == "reset":
                stream.reset()
            elif verb == "snapshot":
                kept[place] = stream.snapshot()
            elif verb == "restore":
                stream.restore(kept[place])
            else:
                frame, expected = next(steps)
                assert (stream.step(frame).labels == expected).all(), name
    assert next(steps, None) is None
"""
DATA = str(ROOT / "tests/conformance/data")
# Extra -> probe; a word in brackets belongs to it.
PROBES = {
    "": "import streamseg.cli.main; assert streamseg.__version__",
    "cpu": CONFORMANCE.format(data=DATA, backend="onnxruntime", options="{}"),
    "openvino": CONFORMANCE.format(
        data=DATA, backend="openvino", options="dict(precision='fp32', native=False)"
    ),
    "cuda": "import onnxruntime as o, cuda.bindings.runtime\n"
    "assert 'CUDAExecutionProvider' in o.get_available_providers()",
    "eval": "from streamseg.evaluation.plots import new_figure; new_figure(2, 2)",
    "batch": "from streamseg.batch import tables, work\n"
    "tables.import_pyarrow(), work.import_fsspec()",
    "ray": "from streamseg.batch.cluster import import_ray; import_ray()",
    "triton": "import tritonclient.grpc",
    "serve": "import streamseg.serving.server; from streamseg.cli.serve import require_server\n"
    "require_server()",
    "docs": "import mkdocs, material, mkdocstrings",
    "train": "import accelerate, matplotlib, scipy",
    "export,cpu": "import streamseg\n"
    f"streamseg.export({str(ROOT / 'samples/street/street.safetensors')!r}, 'out', size=(64, 128))",
}
PIP = ("", "cpu", "serve")  # uv takes seconds where pip takes a minute
# Not installed: (extra, Python, platform) -> only resolved.
RESOLVED = (
    ("tensorrt", "3.12", "x86_64"),
    ("jetpack6", "3.10", "aarch64"),
    ("jetpack7", "3.12", "aarch64"),
)
GLIBC = (39, 35, 34, 31, 28, 27, 17)


@dataclass(frozen=True)
class Cell:
    """One environment and its result."""

    python: str
    tool: str
    extra: str
    result: str
    seconds: float
    megabytes: int


def find_python(version: str) -> str | None:
    """An interpreter of a version, from PATH or pyenv; None if this machine has none."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (
        *sorted(versions.glob(f"{version}.*/bin/python")),
        shutil.which(f"python{version}"),
    ):
        if path is not None and _prints(str(path), version):
            return str(path)
    return None


def _prints(python: str, version: str) -> bool:
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def install(python: str, tool: str, wheel: Path, extra: str, folder: Path) -> Iterator[list[str]]:
    """The commands of one cell; their PATH holds only the new environment."""
    place = folder / "venv"
    wish = f"{wheel}[{extra}]" if extra else str(wheel)
    if tool == "uv":
        uv = shutil.which("uv") or "uv"
        yield [uv, "venv", "-q", "--no-project", "--seed", "--python", python, str(place)]
        yield [uv, "pip", "install", "-q", "--python", str(place), wish]
        yield [uv, "pip", "check", "-q", "--python", str(place)]
    else:
        yield [python, "-m", "venv", str(place)]
        yield [str(place / "bin/python"), "-m", "pip", "install", "-q", wish]
        yield [str(place / "bin/python"), "-m", "pip", "check"]
    yield [str(place / "bin/streamseg"), "--version"]
    yield [str(place / "bin/python"), "-W", "error::SyntaxWarning", "-c", PROBES[extra]]


def try_cell(version: str, tool: str, wheel: Path, extra: str) -> Cell:
    """Install and probe; the first failing command's last line is the result."""
    python = find_python(version)
    if python is None:
        return Cell(version, tool, extra, f"not tested: no Python {version} here", 0, 0)
    began, result = time.monotonic(), "ok"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        environment |= {"PATH": str(folder / "venv/bin"), "OMP_NUM_THREADS": "1"}
        for command in install(python, tool, wheel, extra, folder):
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
                print("\n".join(lines[-20:]), file=sys.stderr)
                result = f"{' '.join(command[1:4])[:60]}: {lines[-1][:200]}"
                break
        size = sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file()) >> 20
    return Cell(version, tool, extra, result, round(time.monotonic() - began, 1), size)


def resolve(wheel: Path, extra: str, version: str, machine: str) -> Cell:
    """Ask pip which releases an extra would install elsewhere, without installing."""
    from importlib.metadata import PathDistribution  # of the wheel, which pip would reject here
    from zipfile import Path as ZipPath

    began = time.monotonic()
    folder = next(p for p in ZipPath(wheel).iterdir() if p.name.endswith(".dist-info"))
    needed = [
        entry.partition(";")[0].strip()
        for entry in PathDistribution(folder).requires or []  # type: ignore[arg-type]
        if "extra ==" not in entry or f'extra == "{extra}"' in entry
    ]
    with tempfile.TemporaryDirectory() as target:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
            + ["--target", target, "--only-binary=:all:", "--implementation=cp"]
            + [f"--python-version={version}"]
            + [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC]
            + [f"--platform=manylinux2014_{machine}", *needed],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    last = (done.stdout + done.stderr).strip().splitlines()[-1:] or [""]
    result = "resolved, not installed" if done.returncode == 0 else f"not resolved: {last[0][:200]}"
    seconds = round(time.monotonic() - began, 1)
    return Cell(f"{version} {machine}", "pip", extra, result, seconds, 0)


def write_page(path: Path, wheel: Path, cells: list[Cell]) -> None:
    """Write the cells as JSON and, next to it, as a table."""
    record = {"wheel": wheel.name, "cells": [asdict(cell) for cell in cells]}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# Installation",
        "",
        f"`{wheel.name}` in fresh environments without a compiler, made by "
        "`benchmarks/installation.py`. "
        "Where it says ok, `pip check` and a probe of the extra passed; the CPU backends "
        "reproduced the labels of the conformance set. `pycuda` is built from source with CUDA's "
        "toolkit and was not tested. `tensorrt` on PyPI has no wheels, so pip cannot resolve it "
        "without running its set-up, which fetches NVIDIA's. Sizes are those of the environment.",
        "",
        "| Python | tool | extra | result | MB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.python} | {c.tool} | {c.extra or '(none)'} | {c.result} | {c.megabytes or '-'} |"
        for c in cells
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS)
    parser.add_argument("--extras", nargs="*", default=list(PROBES), metavar="EXTRA")
    parser.add_argument("--tools", nargs="+", choices=("pip", "uv"), default=("pip", "uv"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    wheel = arguments.wheel.resolve()
    plan = [
        (version, tool, extra)
        for extra in arguments.extras
        for version in arguments.pythons
        for tool in arguments.tools
        if tool == "uv" or extra in PIP
    ]
    cells = []
    for version, tool, extra in plan:
        cells.append(try_cell(version, tool, wheel, extra))
        print(*asdict(cells[-1]).values(), sep="\t", flush=True)
    if set(arguments.extras) == set(PROBES):
        for extra, version, machine in RESOLVED:
            cells.append(resolve(wheel, extra, version, machine))
            print(*asdict(cells[-1]).values(), sep="\t", flush=True)
    if arguments.json is not None:
        write_page(arguments.json, wheel, cells)
    if any(
        not c.result.startswith(("ok", "resolved", "not tested", "not resolved")) for c in cells
    ):
        raise SystemExit("an installation failed")


if __name__ == "__main__":
    main()

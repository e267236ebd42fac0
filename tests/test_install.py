"""The package as users install it: editable, normal, from an sdist, without torch, on aarch64."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.conftest import ROOT
from tests.test_rooms import ROOMS as FOLDERS

OUTSIDE = f"""
import importlib.util, sys
found = [name for name in {FOLDERS} if importlib.util.find_spec(name) is not None]
assert not found, found
import streamseg.runtime.stream, streamseg.runtime.bundle.bundle, streamseg.cli.main, streamseg
assert "torch" not in sys.modules and "onnx" not in sys.modules
print(streamseg.__version__)
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_venv(folder: Path) -> Path:
    """A venv that sees the test environment's libraries but not its streamseg."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_editable_install_hides_generic_names(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", OUTSIDE, cwd=tmp_path).strip()


def test_sdist_and_wheel_hold_every_module(distributions: tuple[Path, Path]) -> None:
    sdist, wheel = distributions
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    tracked = run("git", "ls-files", cwd=ROOT).split()
    for name in tracked:
        top, _, rest = name.partition("/")
        if not name.endswith((".py", "py.typed", ".html", ".css", ".js", "published_tables.json")):
            continue
        if top in FOLDERS:
            assert f"src/streamseg/{name}" in packed
            assert f"streamseg/{top}/{rest}" in installed
        elif name.startswith("src/streamseg/"):
            assert name in packed
            assert name.removeprefix("src/") in installed
    assert not [name for name in installed if name.split("/")[0] in (*FOLDERS, "tests", "samples")]
    assert any(name.endswith("licenses/LICENSE") for name in installed)


def test_wheel_runs_without_torch(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", distributions[1])
    assert run(python, "-c", OUTSIDE, cwd=tmp_path).strip()
    help_text = run(tmp_path / "venv" / "bin" / "streamseg", "--help", cwd=tmp_path)
    assert "run" in help_text
    (tmp_path / "x.pth").write_bytes(b"weights")  # paths are checked before what is installed
    for arguments, hint in (
        (
            ["export", "x.pth", "--size", "64x64", "-o", "b"],
            f"pip install '{distributions[1]}[export,cpu]'",
        ),
        (["run", "b", "x.mp4", "--out", "o.mp4"], "no such video: x.mp4"),
    ):
        done = subprocess.run(
            [tmp_path / "venv" / "bin" / "streamseg", *arguments],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2
        assert hint in done.stderr
        assert "Traceback" not in done.stderr
    missing = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from streamseg.errors import BackendError
from streamseg.runtime.backends.onnxruntime import import_onnxruntime
try:
    import_onnxruntime()
except BackendError as error:
    print(error)
"""
    assert f"pip install '{distributions[1]}[cpu]'" in run(python, "-c", missing, cwd=tmp_path)


@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_runtime_resolves_on_aarch64(
    distributions: tuple[Path, Path], version: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(distributions[1]) as archive:
        name = next(n for n in archive.namelist() if n.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    requirements = [
        entry.partition(";")[0].strip()
        for entry in metadata.get_all("Requires-Dist") or []
        if "extra ==" not in entry or re.search('extra == "(cpu|serve)"', entry)
    ]
    assert any(entry.startswith("aiohttp") for entry in requirements)
    assert any(entry.startswith("onnxruntime") for entry in requirements)
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in (39, 35, 34, 31, 28, 27, 17)]
    options = [f"--platform={name}" for name in (*platforms, "manylinux2014_aarch64")]
    run(
        sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed",
        "--target", tmp_path, "--only-binary=:all:", "--implementation=cp",
        f"--python-version={version}", *options, *requirements,
    )  # fmt: skip


def run_lines(name: str) -> list[str]:
    """The RUN instructions of a Dockerfile at the root."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^RUN (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda", "Dockerfile.jetson"])
def test_containers_name_extras_and_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"^ARG EXTRAS?=(.+)$", text, re.MULTILINE)
    extras += re.findall(r"\[([a-z,0-9]+)\]", text)
    assert extras
    used = {extra for entry in extras for extra in entry.split(",")}
    assert used <= set(declared["optional-dependencies"])
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / part).exists() for part in source.split())
    for line in run_lines(name):
        subprocess.run(["bash", "-n", "-c", line], check=True)


def test_install_line_of_the_dockerfile_installs_the_page(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    make_venv(tmp_path / "venv")
    (line,) = [line for line in run_lines("Dockerfile") if line.startswith("pip install")]
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    line = line.replace("/wheels", str(distributions[1].parent))
    path = f"export PATH={tmp_path}/venv/bin:$PATH EXTRAS={extras}; "
    run("bash", "-ec", path + line, cwd=tmp_path)
    run("bash", "-ec", path + "pip check; streamseg serve --help", cwd=tmp_path)

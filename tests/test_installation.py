"""Install commands in messages fit the copy that prints them.

The oracles are installers: pip and, where it is installed, uv put a small package with this module
into an environment, and the command that it prints is run.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamseg import installation
from streamseg.installation import build_command, install_command, package_command
from tests.conftest import ROOT


class Recorded:
    """Metadata of an installed package with a ``direct_url.json``, or without."""

    def __init__(self, record: dict[str, Any] | None) -> None:
        self.record = record

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.record is None else json.dumps(self.record)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Pretends that the module lies in site-packages, installed from what is given."""

    def pretend(record: dict[str, Any] | None) -> None:
        monkeypatch.setattr(installation, "__file__", str(tmp_path / "streamseg/installation.py"))
        monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Recorded(record))

    return pretend


def test_checkout_names_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert install_command("serve").endswith(f"pip install -e '{ROOT}[serve]'")
    monkeypatch.chdir(ROOT)
    assert install_command("export", "cpu").endswith("pip install -e '.[export,cpu]'")
    assert build_command("native") == "make native"


WHEEL = "/tmp/a%20b/streamseg-0.2.0-py3-none-manylinux_2_35_x86_64.whl"


@pytest.mark.parametrize(
    ("record", "extra", "build"),
    [
        (None, "'streamseg[cpu]'", "--no-binary streamseg streamseg"),
        (
            {"url": f"file://{WHEEL}", "archive_info": {}},
            f"'{WHEEL.replace('%20', ' ')}[cpu]'",
            f"streamseg-{installation.__version__}.tar.gz",
        ),
        ({"url": "file:///src/tree", "dir_info": {}}, "'/src/tree[cpu]'", "'/src/tree'"),
        (
            {"url": "https://host/o/n", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            "'streamseg[cpu] @ git+https://host/o/n@ab12'",
            "'streamseg @ git+https://host/o/n@ab12'",
        ),
        (
            {"url": "https://host/streamseg-1-py3-none-any.whl", "archive_info": {}},
            "'streamseg[cpu] @ https://host/streamseg-1-py3-none-any.whl'",
            f"streamseg-{installation.__version__}.tar.gz",
        ),
    ],
)
def test_installed_copy_names_where_it_came_from(
    installed: Any, record: dict[str, Any] | None, extra: str, build: str
) -> None:
    installed(record)
    assert install_command("cpu").endswith(f"pip install {extra}")
    command = build_command("cuda")
    assert command.startswith("STREAMSEG_CUDA=1 ")
    assert command.endswith(f"--force-reinstall --no-deps {build}")


def test_other_packages_are_quoted_where_a_shell_would_read_them() -> None:
    assert package_command("onnx", "cuda-bindings<13").endswith(
        "pip install onnx 'cuda-bindings<13'"
    )


SETUP = """
from setuptools import setup
setup(name="streamseg", version="0.2.0", packages=["streamseg"], extras_require={"cpu": ["tool"]})
"""


def write_small_package(folder: Path) -> Path:
    """A source tree called streamseg whose extra needs ``tool``; its wheel, in ``folder``."""
    package = folder / "tree" / "streamseg"
    package.mkdir(parents=True)
    for name in ("installation.py", "_version.py"):
        shutil.copy(ROOT / "src/streamseg" / name, package / name)
    (package / "__init__.py").touch()
    (folder / "tree" / "setup.py").write_text(SETUP)
    tool = folder / "tool"
    tool.mkdir()
    (tool / "tool.py").touch()
    (tool / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='tool', version='1', py_modules=['tool'])"
    )
    for tree in (folder / "tree", tool):
        run(sys.executable, "setup.py", "-q", "bdist_wheel", "-d", folder, cwd=tree)
    return next(folder.glob("streamseg-*.whl"))


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PRINT = "from streamseg.installation import install_command as c; print(c('cpu'))"


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_printed_command_adds_the_extra_to_an_installed_wheel(tool: str, tmp_path: Path) -> None:
    if tool == "uv" and shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    wheel = write_small_package(tmp_path)
    place = tmp_path / "venv"
    if tool == "uv":
        run("uv", "venv", "-q", "--no-project", "--python", sys.executable, place, cwd=tmp_path)
        install = ["uv", "pip", "install", "-q", "--offline"]
    else:
        run(sys.executable, "-m", "venv", place, cwd=tmp_path)
        install = [str(place / "bin/pip"), "install", "-q"]
    activate = f"export VIRTUAL_ENV={place} PATH={place}/bin:$PATH PYTHONPATH=; "
    offline = "export PIP_NO_INDEX=1 UV_OFFLINE=1 "
    offline += f"PIP_FIND_LINKS={tmp_path} UV_FIND_LINKS={tmp_path}; "
    run("bash", "-ec", activate + offline + " ".join([*install, str(wheel)]), cwd=tmp_path)
    shown = run("bash", "-ec", f'{activate}python -c "{PRINT}"', cwd=tmp_path).strip()
    assert shown == f"{'uv pip' if tool == 'uv' else 'pip'} install '{wheel}[cpu]'"
    run("bash", "-ec", activate + offline + shown, cwd=tmp_path)
    run(place / "bin/python", "-c", "import tool", cwd=tmp_path)

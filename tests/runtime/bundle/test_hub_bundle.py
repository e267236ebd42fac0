"""Bundles on a hub, against a local server that implements its protocol."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.errors import BundleError
from streamseg.runtime.bundle.hub_bundle import fetch_bundle
from tests.hub_server import COMMIT, OLDER, Hub, client_environment, serve
from tests.runtime.toy import write_toy_bundle

NAME = "hf:someone/toy"
STEP = """
import sys, numpy, streamseg
try:
    with streamseg.open(sys.argv[1]) as stream:
        print(stream.step(numpy.full((6, 8, 3), 200, numpy.uint8)).labels.tolist())
except streamseg.StreamsegError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("huggingface_hub")
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Hub]:
    files = {
        str(path.relative_to(bundle)): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    graph = next(name for name in files if name.endswith(".onnx"))
    repositories = {
        "someone/toy": {**files, "README.md": b"# toy", "notes/large.bin": b"x" * 1000},
        "someone/changed": {**files, graph: files[graph][:-1] + b"?"},
        "someone/incomplete": {key: data for key, data in files.items() if key != graph},
        "someone/net": {"model.safetensors": b"weights", "config.json": b"{}"},
    }
    with serve(repositories) as found:
        yield found


def step(
    source: str | Path, folder: Path, address: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """One step of a bundle in a process of its own."""
    environment = client_environment(address, folder / "hub") | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        **variables,
    }
    command = [sys.executable, "-c", STEP, str(source)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_bundle_on_a_hub_steps_like_its_folder_and_again_offline(
    bundle: Path, server: Hub, tmp_path: Path
) -> None:
    server.served.clear()
    plain = step(bundle, tmp_path, server.address)
    opened = step(NAME, tmp_path, server.address)
    assert opened.returncode == 0, opened.stderr
    assert opened.stdout == plain.stdout
    assert not {"README.md", "notes/large.bin"} & set(server.served)
    (folder,) = (tmp_path / "cache/streamseg/bundles").iterdir()
    assert folder.name == f"someone--toy@{COMMIT}"
    assert not [path for path in folder.rglob("*") if path.is_symlink()]

    # The commit alone is enough: neither the server nor the hub's own cache is asked.
    gone = {"HF_HOME": str(tmp_path / "nothing"), "HF_HUB_OFFLINE": "1"}
    again = step(f"{NAME}@{COMMIT}", tmp_path, "http://127.0.0.1:9", **gone)
    assert again.returncode == 0, again.stderr
    assert again.stdout == plain.stdout


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf:someone/net", "streamseg export hf:someone/net --size HxW -o net"),
        ("hf:someone/changed", "was changed or damaged"),
        ("hf:someone/incomplete", ".onnx, which its manifest lists"),
        ("hf:someone/nothing", "cannot be downloaded"),
        (f"{NAME}@{OLDER}", "cannot be downloaded"),
    ],
)
def test_folder_that_is_not_a_bundle_is_rejected(
    source: str, reason: str, server: Hub, tmp_path: Path
) -> None:
    done = step(source, tmp_path, server.address)
    assert done.returncode == 1
    assert done.stderr.startswith("BundleError: "), done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["hf:", "hf:toy", "hf:a/b/c", "hf:a b/c", "hf:a/b@"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="expected hf:ORG/NAME"):
        fetch_bundle(name)


def test_missing_client_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BundleError, match=r"pip install huggingface_hub.*hf download a/b"):
        fetch_bundle("hf:a/b")

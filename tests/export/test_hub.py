"""Names on the hub, against a local server that implements the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.errors import CheckpointError
from streamseg.export import hub
from tests.export import origins
from tests.hub_server import COMMIT, OLDER, Hub, client_environment, serve

REPOSITORY = "someone/street-net"
UNWANTED = {"training_args.bin": b"x" * 50, "tf_model.h5": b"y" * 50, "logs/run.txt": b"z"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = origins.write_folder(origins.build("segformer"), tmp_path_factory.mktemp("repo"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    pickled = origins.write_folder(origins.build("segformer"), tmp_path_factory.mktemp("old"))
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    old = {path.name: path.read_bytes() for path in pickled.iterdir()}
    with serve({REPOSITORY: {**files, **UNWANTED}, "someone/old-net": old}) as found:
        yield found


def export(
    source: str, folder: Path, address: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """``streamseg export`` in a process of its own: the hub's client reads its settings once."""
    environment = client_environment(address, folder / "cache") | variables
    return subprocess.run(
        [sys.executable, "-m", "streamseg.cli.main", "export", source, "--size", "64x96"]
        + ["-o", str(folder / "bundle")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )


def test_hub_bundle_is_downloaded_pinned_and_then_found_offline(
    server: Hub, tmp_path: Path
) -> None:
    server.served.clear()
    result = export(f"hf:{REPOSITORY}", tmp_path, server.address)
    assert result.returncode == 0, result.stderr
    assert f"from hf:{REPOSITORY}@{COMMIT}, SHA-256 " in result.stdout
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    weights = server.repositories[REPOSITORY]["model.safetensors"]
    assert manifest["weights"]["source"] == f"hf:{REPOSITORY}@{COMMIT}"
    assert manifest["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["weights"]["license"] == "apache-2.0"
    assert [entry["name"] for entry in manifest["classes"]] == ["road", "car", "sky"]
    assert not set(UNWANTED) & set(server.served)

    offline = tmp_path / "offline"
    offline.mkdir()
    cache = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = export(f"hf:{REPOSITORY}", offline, "http://127.0.0.1:9", **cache)
    assert result.returncode == 0, result.stderr
    again = json.loads((offline / "bundle/manifest.json").read_text())
    assert again["weights"] == manifest["weights"]


def test_repository_of_pickles_is_downloaded(server: Hub, tmp_path: Path) -> None:
    result = export(f"hf:someone/old-net@{COMMIT}", tmp_path, server.address)
    assert result.returncode == 0, result.stderr
    assert "layout SegFormer (transformers)" in result.stdout


@pytest.mark.parametrize(
    ("source", "variables", "reason"),
    [
        (f"hf:{REPOSITORY}", {"HF_HUB_OFFLINE": "1"}, "cannot be downloaded"),
        ("hf:someone/nothing", {}, "cannot be downloaded"),
        (f"hf:{REPOSITORY}@{OLDER}", {}, f"--revision {OLDER}"),
    ],
)
def test_offline_commands_are_given(
    source: str, variables: dict[str, str], reason: str, server: Hub, tmp_path: Path
) -> None:
    result = export(source, tmp_path, server.address, **variables)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("streamseg:")]
    assert len(lines) == 1, result.stderr
    assert reason in lines[0]
    repository = source.removeprefix("hf:").partition("@")[0]
    folder = repository.partition("/")[2]
    assert f"hf download {repository}" in lines[0]
    assert f"--local-dir {folder}" in lines[0]
    assert "Traceback" not in result.stderr


def test_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install huggingface_hub.*hf download a/b"):
        hub.fetch("hf:a/b")


@pytest.mark.parametrize("name", ["hf:", "hf:bert", "hf:a/b/c", "hf:a b/c", "hf:a/b@"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="expected hf:ORG/NAME"):
        hub.fetch(name)

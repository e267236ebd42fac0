"""Names on the hub, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.errors import CheckpointError
from streamseg.export import hub
from tests.export import origins

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"
REPOSITORY = "someone/street-net"
UNWANTED = {"training_args.bin": b"x" * 50, "tf_model.h5": b"y" * 50, "logs/run.txt": b"z"}


class Hub(http.server.ThreadingHTTPServer):
    """Repositories as the hub serves them: their list of files, and each file by revision."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.served: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.server.repositories.get(name)
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
        elif parts[0] == "api":
            self._api(name, files, parts[4:], body=body)
        else:
            self._file(files, parts[3], "/".join(parts[4:]), body=body)

    def _api(self, name: str, files: dict[str, bytes], rest: list[str], *, body: bool) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
            return
        if rest and rest[0] == "tree":
            listed = [
                {"type": "file", "path": path, "size": len(data), "oid": _tag(data)}
                for path, data in files.items()
            ]
            self._send(200, json.dumps(listed).encode(), {}, body=body)
            return
        answer = {
            "id": name,
            "sha": COMMIT,
            "siblings": [{"rfilename": path} for path in files],
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        self._send(200, json.dumps(answer).encode(), {}, body=body)

    def _file(self, files: dict[str, bytes], revision: str, path: str, *, body: bool) -> None:
        if revision not in ("main", COMMIT) or path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
            return
        if body:
            self.server.served.append(path)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_tag(files[path])}"'}
        self._send(200, files[path], headers, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _tag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = origins.write_folder(origins.build("segformer"), tmp_path_factory.mktemp("repo"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    pickled = origins.write_folder(origins.build("segformer"), tmp_path_factory.mktemp("old"))
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    found = Hub(
        {
            REPOSITORY: {**files, **UNWANTED},
            "someone/old-net": {path.name: path.read_bytes() for path in pickled.iterdir()},
        }
    )
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def export(
    source: str, folder: Path, address: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """``streamseg export`` in a process of its own: the hub's client reads its settings once."""
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "cache"), **variables}
    environment["HF_HUB_DISABLE_XET"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "streamseg.cli.main", "export", source, "--size", "64x96"]
        + ["-o", str(folder / "bundle")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )


def test_hub_name_is_downloaded_pinned_and_then_found_without_network(
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

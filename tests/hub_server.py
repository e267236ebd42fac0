"""A local server that implements the hub's protocol: lists of files, and each file by revision."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"


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
        known = revision in ("main", COMMIT)
        if not known or path not in files:
            code = "EntryNotFound" if known else "RevisionNotFound"
            self._send(404, b"", {"X-Error-Code": code}, body=body)
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


@contextmanager
def serve(repositories: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """A running server."""
    found = Hub(repositories)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        found.shutdown()
        found.server_close()


def client_environment(address: str, cache: Path) -> dict[str, str]:
    """Variables of a process that talks to it; the hub's client reads them once."""
    variables = os.environ.items()
    kept = {name: value for name, value in variables if not name.lower().endswith("_proxy")}
    return kept | {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}

"""A server under 1,500 connections that say nothing or half of something."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.runtime.streams import MjpegServer, encode_jpeg, free_port
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle

pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="the page needs the extra 'serve'")

from streamseg.serving.server import PageServer

CONNECTIONS = 1500
HALVES = (
    b"",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\ntok",
    b"\x16\x03\x01\x02\x00",
)


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * CONNECTIONS:
        pytest.skip(f"this process may have {hard} descriptors only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * CONNECTIONS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect_many(port: int) -> list[socket.socket]:
    held = []
    for number in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        held.append(connection)
        try:
            connection.sendall(HALVES[number % len(HALVES)])
        except OSError:  # ended already
            continue
    return held


def answer_seconds(port: int, path: str) -> float:
    began = time.monotonic()
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        assert answer.status == 200
        answer.read()
    return time.monotonic() - began


def start(tmp_path: Path, port: int, camera: int) -> subprocess.Popen[bytes]:
    listed = tmp_path / "streams.toml"
    listed.write_text(
        f'[streams.scene]\nsource = "synthetic:clean?size=32x48&fps=20"\n'
        f'[streams.cam]\nsource = "http://127.0.0.1:{camera}/"\nbackoff = 0.5\ntimeout = 2.0\n'
        "live = true\n"
    )
    bundle = write_toy_bundle(tmp_path / "toy")
    program = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "-v", "serve"]
    arguments = [str(bundle), "--streams", str(listed), "--port", str(port), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("STREAMSEG_TOKEN", None)
    limited = ["bash", "-c", 'ulimit -n 1024; exec "$@"', "-", *program, *arguments]
    with (tmp_path / "log").open("wb") as log:
        return subprocess.Popen(limited, env=environment, stdout=log, stderr=log)


def wait_for(condition: str, port: int, seconds: float) -> None:
    """Wait until a metric is there."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            text = ""
        if any(
            line.startswith(condition) and float(line.split()[-1]) > 3 for line in text.splitlines()
        ):
            return
        assert time.monotonic() < end, f"{condition} in {text}"
        time.sleep(0.1)


def test_serve_outlives_hostile_connections(tmp_path: Path) -> None:
    port, camera = free_port(), free_port()
    server = start(tmp_path, port, camera)
    held: list[socket.socket] = []
    try:
        wait_for('streamseg_frames_total{stream="scene"}', port, 60)
        held = connect_many(port)
        assert answer_seconds(port, "/healthz") < 1
        assert answer_seconds(port, "/") < 1
        # The camera comes while they are still connected, and needs descriptors.
        with MjpegServer([encode_jpeg(i, (HEIGHT, WIDTH)) for i in range(400)], port=camera):
            wait_for('streamseg_frames_total{stream="cam"}', port, 20)
        for connection in held:
            connection.close()
        wait_for('streamseg_frames_total{stream="scene"}', port, 20)
        assert answer_seconds(port, "/healthz") < 1
        held = connect_many(port)
        began = time.monotonic()
        server.terminate()
        assert server.wait(5) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 5
    finally:
        server.kill()
        server.wait()
        for connection in held:
            connection.close()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text, text


def test_incomplete_header_is_awaited_for_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.serving.server.IDLE_SECONDS", 0.5)
    with PageServer(()) as server:
        for half in HALVES[:3]:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(half)
                began = time.monotonic()
                while connection.recv(4096):
                    pass
                assert time.monotonic() - began < 3


def test_loop_survives_failures_outside_its_handlers() -> None:
    """asyncio lets SystemExit and failures of its own logging out of ``run_forever``."""

    class Broken(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise OSError(24, "Too many open files")

    broken = Broken()
    logging.getLogger("asyncio").addHandler(broken)
    logging.getLogger("streamseg.serving").addHandler(broken)
    try:
        with PageServer(()) as server:
            for _ in range(3):
                server._loop.call_soon_threadsafe(lambda: 1 / 0)
            assert answer_seconds(server.port, "/healthz") < 1
    finally:
        logging.getLogger("asyncio").removeHandler(broken)
        logging.getLogger("streamseg.serving").removeHandler(broken)


def test_accept_without_a_free_descriptor_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    """Server and clients share this process's descriptors, and ten are left."""
    with PageServer(()) as server, ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        try:
            spare = []
            with contextlib.suppress(OSError):
                while True:
                    spare.append(os.dup(0))
            for _ in range(10):
                os.close(spare.pop())
            with contextlib.suppress(OSError):  # until none is left for either side
                while True:
                    held = socket.create_connection(("127.0.0.1", server.port), timeout=5)
                    stack.enter_context(held)
            time.sleep(2.5)  # two rounds of asyncio's
        finally:
            for descriptor in spare:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert answer_seconds(server.port, "/healthz") < 3
    assert len([r for r in caplog.records if "out of system resource" in r.getMessage()]) == 1


def test_close_does_not_wait_for_a_loop_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.serving.server.CLOSE_SECONDS", 0.3)
    server = PageServer(())
    server._loop.call_soon_threadsafe(time.sleep, 3)
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 2
    server._thread.join()
    server._loop.close()
    with socket.socket() as probe:  # and when it has come to itself, the port is free
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0

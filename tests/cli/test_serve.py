from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from streamseg.installation import install_command
from tests.cli.test_run import call, refusal
from tests.runtime.sinks.test_mqtt import (  # noqa: F401 - two of them are fixtures
    RunningBroker,
    Subscriber,
    broker,
    subscriber,
    wait_until,
)
from tests.runtime.toy import write_toy_bundle

pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")

SCENE = "synthetic:clean?size=32x48&fps=20"
TOKEN = "0123456789abcdef"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_neither_source_nor_streams(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("serve", bundle) == 2
    assert "expected one or more SOURCEs" in capsys.readouterr().err


def test_page_for_others_needs_a_token(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMSEG_TOKEN", raising=False)
    line = refusal(capsys, "serve", bundle, SCENE, "--host", "0.0.0.0", "--port", 0)
    assert "needs a token" in line


def test_mistakes_are_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], port: int
) -> None:
    given = ("serve", bundle, SCENE, "--port", port)
    assert str(tmp_path / "none") in refusal(capsys, "serve", tmp_path / "none", *given[2:])
    assert "No such file" in refusal(capsys, *given, "--token-file", tmp_path / "none")
    (tmp_path / "short").write_text("abc")
    assert "16 or more" in refusal(capsys, *given, "--token-file", tmp_path / "short")
    (tmp_path / "file").write_text("")
    assert "is a file, expected a folder" in refusal(
        capsys, *given, "--snapshots", tmp_path / "file"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert "choose another --port" in refusal(capsys, *given)


def test_missing_server_names_the_extra(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.live_page.REQUIRED", ("no_such_module",))
    line = refusal(capsys, "serve", bundle, SCENE)
    assert "no_such_module is not installed" in line
    assert install_command("serve") in line


def test_serve_end_to_end(bundle: Path, tmp_path: Path, port: int) -> None:
    """Token, two named streams, a reload, a password that shows nowhere, and an orderly end."""
    listed = tmp_path / "streams.toml"
    camera = '[streams.cam]\nsource = "rtsp://user:hunter2@127.0.0.1:9/x"\ntimeout = 0.5\n'
    scene = f'[streams.scene]\nsource = "{SCENE}"\n'
    listed.write_text(scene + camera)
    command = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "-v", "serve"]
    arguments = [str(bundle), "--streams", str(listed), "--port", str(port), "--threads", "1"]
    environment = {**os.environ, "STREAMSEG_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command + arguments, env=environment, stdout=output, stderr=output
        )

    def ask(path: str, token: str = TOKEN) -> str:
        request = Request(f"http://127.0.0.1:{port}{path}")
        request.add_header("Authorization", f"Bearer {token}")
        with urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def streams() -> dict[str, int]:
        return {entry["name"]: entry["frames"] for entry in json.loads(ask("/api/streams"))}

    try:
        end = time.monotonic() + 60
        while True:
            try:
                frames = streams()  # the page is up before the streams join
                if frames.get("scene", 0) > 3 and "cam" in frames:
                    break
            except OSError:
                assert server.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        assert streams()["cam"] == 0
        assert 'streamseg_frames_total{stream="scene"}' in ask("/metrics")
        with pytest.raises(HTTPError) as caught:
            ask("/api/streams", token="0123456789abcdeX")
        assert caught.value.code == 401
        caught.value.close()
        everything = ask("/api/streams") + ask("/metrics")
        server.send_signal(signal.SIGUSR1)
        while 'streamseg_resets_total{cause="request",stream="scene"} 1.0' not in ask("/metrics"):
            assert time.monotonic() < end
            time.sleep(0.1)
        listed.write_text(scene)
        server.send_signal(signal.SIGHUP)
        while "cam" in streams():
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        server.terminate()
        code = server.wait(30)
    text = log.read_text()
    assert code == 128 + signal.SIGTERM, text
    assert "streams that left: cam; joined: none" in text
    assert "Traceback" not in text
    for secret in ("hunter2", TOKEN):
        assert secret not in text + everything


def test_serve_publishes_what_run_writes(
    bundle: Path,
    tmp_path: Path,
    port: int,
    broker: RunningBroker,  # noqa: F811
    subscriber: Subscriber,  # noqa: F811
) -> None:
    """Areas, a reset on SIGUSR1 and the end of the stream reach a real broker."""
    command = [sys.executable, "-m", "streamseg.cli.main", "serve", str(bundle), f"cam={SCENE}"]
    arguments = ["--port", str(port), "--mqtt", broker.address, "--when-behind", "wait"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command + arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(lambda: len(subscriber.of("site/cam/areas")) > 3)
            before = len(subscriber.of("site/cam/areas"))
            server.send_signal(signal.SIGUSR1)
            wait_until(lambda: subscriber.of("site/cam/events")[1:])
        finally:
            server.terminate()
        assert server.wait(30) == 128 + signal.SIGTERM
    wait_until(lambda: len(subscriber.of("site/cam/events")) == 3)
    events = subscriber.of("site/cam/events")
    assert [entry["kind"] for entry in events] == ["start", "reset", "end"]
    reset = events[1]["frame"]
    assert call("run", bundle, SCENE, "--frames", reset, "--areas", tmp_path / "areas") == 0
    lines = [json.loads(line) for line in (tmp_path / "areas").read_text().splitlines()]
    found = [entry for entry in subscriber.of("site/cam/areas") if entry["frame"] < reset]
    assert len(found) >= before
    for entry in found:
        assert entry.pop("stream") == "cam"
        assert entry in lines

"""The label WebSocket, read by a client of another library and decoded without ours."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")
websocket = pytest.importorskip("websocket", reason="it comes with selenium, of the extra 'dev'")

from streamseg.runtime.sources import Frame  # noqa: E402
from streamseg.serving.label_messages import LabelFrame, encode_runs  # noqa: E402
from tests.serving.test_server import SIZE, Running, noisy_frame, running  # noqa: E402

TOKEN = "0123456789abcdef"
SAMPLE = Path(__file__).parents[2] / "samples" / "label_client.py"
DOCS = Path(__file__).parents[2] / "docs" / "label-stream.md"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as started:
        yield started


def url_of(run: Running, query: str = "") -> str:
    return run.server.url.replace("http", "ws") + "labels" + query


OPENED: list[Any] = []


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().shutdown()


def connect(run: Running, query: str = "", *, sockopt: Any = None, **options: Any) -> Any:
    client = websocket.WebSocket(sockopt=sockopt)
    OPENED.append(client)
    client.settimeout(20)
    client.connect(url_of(run, query), **options)
    return client


def decode_runs(content: dict[str, Any]) -> list[list[int]]:
    """Rows of class ids, in plain Python."""
    pixels: list[int] = []
    runs = content["runs"]
    for place in range(0, len(runs), 2):
        pixels += [runs[place]] * runs[place + 1]
    assert len(pixels) == content["height"] * content["width"]
    width = content["width"]
    return [pixels[row * width : (row + 1) * width] for row in range(content["height"])]


def next_labels(client: Any) -> dict[str, Any]:
    while True:
        message = json.loads(client.recv())
        if "labels" in message:
            found: dict[str, Any] = message["labels"]
            return found


def read_to_end(client: Any) -> None:
    """Read until the server has ended the connection."""
    end = time.monotonic() + 20
    with contextlib.suppress(websocket.WebSocketException, OSError):
        while client.recv():
            assert time.monotonic() < end, "the connection does not end"


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))
    | arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=6))
)
def test_runs_are_the_labels(labels: np.ndarray[Any, Any]) -> None:
    content = json.loads(LabelFrame(labels, 7, 0.28).encode())["labels"]
    assert decode_runs(content) == labels.tolist()
    assert (content["frame"], content["time"]) == (7, 0.28)
    # As few runs as there can be.
    ids = content["runs"][::2]
    assert all(a != b for a, b in itertools.pairwise(ids))


def test_labels_that_are_not_contiguous_are_read_in_their_order() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::2]
    assert encode_runs(labels)[::2] == [0, 2, 4, 6, 8, 10]


def test_client_gets_classes_and_the_labels_of_each_frame(run: Running) -> None:
    client = connect(run)
    hello = json.loads(client.recv())["hello"]
    assert (hello["version"], hello["stream"], hello["none"]) == (1, "front", 255)
    manifest = run.session.stream.manifest
    assert hello["classes"] == [
        {"id": entry.id, "name": entry.name, "color": list(entry.color)}
        for entry in manifest.classes
    ]
    seen = [next_labels(client) for _ in range(4)]
    client.close()
    assert [entry["frame"] for entry in seen] == sorted({entry["frame"] for entry in seen})
    for entry in seen:
        assert decode_runs(entry) == run.labels[entry["frame"]].tolist()
        assert entry["time"] == round(entry["frame"] / 25, 6)


def test_labels_of_the_runtime_itself_over_a_real_command(tmp_path: Path) -> None:
    """What ``serve`` sends is what ``run --labels`` writes."""
    from PIL import Image as Pictures

    from tests.cli.test_run import call
    from tests.runtime.streams import free_port
    from tests.runtime.toy import write_toy_bundle

    bundle, port = write_toy_bundle(tmp_path / "toy"), free_port()
    scene = "synthetic:clean?size=32x48&fps=10&frames=40"
    assert call("run", bundle, scene, "--labels", tmp_path / "labels") == 0
    words = ["serve", str(bundle), f"cam={scene}", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "streamseg.cli.main", *words])
    try:
        client = None
        while client is None:
            assert process.poll() is None
            try:
                client = websocket.create_connection(
                    f"ws://127.0.0.1:{port}/labels?stream=cam", timeout=20
                )
            except (OSError, websocket.WebSocketBadStatusException):
                time.sleep(0.1)
        seen = [next_labels(client) for _ in range(3)]
        client.close()
    finally:
        process.terminate()
        process.wait(20)
    for entry in seen:
        with Pictures.open(tmp_path / f"labels/{entry['frame']:06d}.png") as picture:
            assert decode_runs(entry) == np.asarray(picture).tolist()


def test_sample_client_is_short_and_prints_the_shares(run: Running) -> None:
    body = SAMPLE.read_text().partition("async def main")[2].partition('if __name__ == "')[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
    command = [sys.executable, str(SAMPLE), run.server.url + "labels?stream=front"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered()) as process:
        assert process.stdout is not None
        try:
            found = json.loads(process.stdout.readline())
        finally:
            process.kill()
    labels = run.labels[found["frame"]]
    names = {entry.id: entry.name for entry in run.session.stream.manifest.classes}
    expected = {
        names[label]: pytest.approx(float((labels == label).mean())) for label in np.unique(labels)
    }
    assert found["shares"] == expected


def unbuffered() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def test_example_of_the_page_decodes(run: Running) -> None:
    block = DOCS.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(block, scope)
    client = connect(run)
    entry = next_labels(client)
    client.close()
    np.testing.assert_array_equal(scope["decode"](entry), run.labels[entry["frame"]])


def test_events_come_between_the_labels(run: Running) -> None:
    client = connect(run)
    next_labels(client)
    run.session.request_reset("for a test").result(20)
    while "event" not in (message := json.loads(client.recv())):
        pass
    client.close()
    assert (message["event"]["kind"], message["event"]["cause"]) == ("reset", "request")


def test_unknown_streams_are_named(run: Running) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        connect(run, "?stream=rear")
    assert caught.value.status_code == 404
    assert caught.value.resp_body == b"no such stream; there are: front\n"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, 401),
        ({"header": ["Authorization: Bearer 0123456789abcdee"]}, 401),
        ({"header": ["Authorization: Bearer " + "é" * 9]}, 401),
        ({"cookie": "streamseg=" + "0" * 64}, 401),
        ({"header": [f"Authorization: Bearer {TOKEN}"], "origin": "http://evil.example"}, 403),
    ],
)
def test_access_is_that_of_the_page(options: dict[str, Any], status: int, tmp_path: Path) -> None:
    with running(tmp_path, token=TOKEN) as run:
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            connect(run, **options)
        assert caught.value.status_code == status
        client = connect(run, header=[f"Authorization: Bearer {TOKEN}"])
        assert "hello" in json.loads(client.recv())
        client.close()


def test_foreign_pages_are_refused_without_a_token_too(run: Running) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        connect(run, origin="http://evil.example")
    assert caught.value.status_code == 403


def test_slow_client_gets_the_newest_and_delays_nobody(run: Running) -> None:
    """Noise, half a megabyte a message: no buffer of the system holds many."""
    slow = connect(run, sockopt=[(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 1 << 13)])
    quick = connect(run)
    next_labels(quick)
    run.halted.set()
    noise = np.random.default_rng(0).integers(0, 7, (320, 480), np.uint8)
    numbers = range(100_000, 100_008)
    for number in numbers:
        begin = time.monotonic()
        run.server.offer(run.view, Frame(noisy_frame(0, (320, 480)), number, float(number)), noise)
        assert time.monotonic() - begin < 5  # a wait for the slow one would be 20 seconds
        while next_labels(quick)["frame"] != number:
            pass
    frames = [next_labels(slow)["frame"]]
    while frames[-1] != numbers[-1]:
        frames.append(next_labels(slow)["frame"])
    large = [frame for frame in frames if frame >= numbers[0]]
    assert large == sorted(set(large))
    assert len(large) <= 4  # what was on its way, and the newest
    quick.close()


def test_large_messages_of_a_client_end_its_connection_alone(run: Running) -> None:
    rude, other = connect(run), connect(run)
    rude.send("x" * 100_000)
    read_to_end(rude)
    assert next_labels(other)["frame"] >= 0
    other.send('{"compare": true}')
    assert next_labels(other)["height"] == SIZE[0]
    other.close()


def test_socket_ends_when_the_stream_leaves(run: Running) -> None:
    client = connect(run)
    next_labels(client)
    run.halted.set()
    run.server.leave(run.view)
    read_to_end(client)
    with pytest.raises(websocket.WebSocketBadStatusException):
        connect(run)


def test_nothing_is_encoded_for_nobody(run: Running) -> None:
    client = connect(run)
    next_labels(client)
    client.close()
    end = time.monotonic() + 10
    while run.view.readers and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)
    before = run.server._encoder.encoded
    time.sleep(0.3)
    assert run.server._encoder.encoded == before

"""The page's server over real sockets; see test_access.py for who may ask."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest

import streamseg
from streamseg.errors import ServeError
from streamseg.runtime.loop.stream_metrics import StreamMetrics
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame
from streamseg.runtime.video.resize import Image, Size
from tests.runtime.smoothing import write_smoothing_bundle

aiohttp = pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="the page needs the extra 'serve'")

from streamseg.serving.flicker import FlickerMeter  # noqa: E402
from streamseg.serving.server import PageServer  # noqa: E402
from streamseg.serving.shots import Shot, encode_shot  # noqa: E402
from streamseg.serving.view import StreamView  # noqa: E402

SIZE = (32, 48)
LARGE = (480, 640)
T = TypeVar("T")


def noisy_frame(index: int, size: Size = SIZE) -> Image:
    """A picture of four flat areas under strong noise."""
    height, width = size
    flat = np.full((height, width, 3), 110, np.uint8)
    flat[: height // 2, : width // 2] = (120, 160, 205)
    flat[height // 2 :, width // 2 :] = (80, 115, 65)
    noise = np.random.default_rng(index).normal(0, 40, flat.shape)
    return np.clip(flat + noise, 0, 255).astype(np.uint8)


@dataclass
class Running:
    """A server over one stream that is stepped in a thread of its own until the test ends."""

    server: PageServer
    view: StreamView
    session: Session
    events: list[Event] = field(default_factory=list)
    labels: list[Image] = field(default_factory=list)
    halted: threading.Event = field(default_factory=threading.Event)
    slowest: float = 0.0
    size: Size = SIZE

    def step_on(self) -> None:
        index = 0
        while not self.halted.is_set():
            frame = Frame(noisy_frame(index, self.size), index, index / 25)
            result = self.session.process(frame)
            self.view.metrics.record(frame)
            self.labels.append(result.labels.copy())
            began = time.perf_counter()
            self.server.offer(self.view, frame, result.labels)
            self.slowest = max(self.slowest, time.perf_counter() - began)
            index += 1
            self.halted.wait(0.01)


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Running]:
    bundle = write_smoothing_bundle(folder / "bundle", SIZE)
    with (
        streamseg.open(bundle, threads=1) as stream,
        PageServer(stream.manifest.classes, stream.execution, **options) as server,
    ):
        metrics = StreamMetrics()

        def tell(event: Event) -> None:
            metrics.count(event)
            run.events.append(event)
            server.report(event)

        policy = StatePolicy(scene_cut=math.inf)
        session = Session(stream, policy, name="front", on_event=tell)
        view = StreamView(session, metrics, lambda: "test source")
        run = Running(server, view, session)
        server.join(view)
        thread = threading.Thread(target=run.step_on)
        thread.start()
        try:
            yield run
        finally:
            run.halted.set()
            thread.join()
    assert not [t for t in threading.enumerate() if t.name.startswith("streamseg-page")]


def ask(server: PageServer, action: Callable[[Any], Awaitable[T]]) -> T:
    """Run one client's conversation."""

    async def run() -> T:
        async with aiohttp.ClientSession(server.url) as client:
            return await asyncio.wait_for(action(client), 30)

    return asyncio.run(run())


def post(server: PageServer, path: str, body: Any) -> tuple[int, str]:
    async def send(client: Any) -> tuple[int, str]:
        async with client.post(path, json=body) as answer:
            return answer.status, await answer.text()

    return ask(server, send)


def get(server: PageServer, path: str) -> tuple[int, str]:
    async def send(client: Any) -> tuple[int, str]:
        async with client.get(path) as answer:
            return answer.status, await answer.text()

    return ask(server, send)


def open_deaf_viewer(server: PageServer) -> socket.socket:
    """A viewer that asks for pictures and reads none."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    deaf.connect(("127.0.0.1", server.port))
    lines = [
        "GET /ws HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    deaf.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    return deaf


def page_dropped(text: str) -> float:
    (line,) = [x for x in text.splitlines() if x.startswith("streamseg_page_dropped_total ")]
    return float(line.split()[1])


def unpack(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    (length,) = struct.unpack(">I", message[:4])
    head = json.loads(message[4 : 4 + length])
    parts, offset = [], 4 + length
    for size in head["parts"]:
        parts.append(message[offset : offset + size])
        offset += size
    assert offset == len(message)
    return head, parts


def decode(content: bytes) -> Image:
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))


async def shots(socket_: Any, count: int) -> list[tuple[dict[str, Any], list[bytes]]]:
    found = []
    while len(found) < count:
        message = await socket_.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.BINARY:
            found.append(unpack(message.data))
    return found


def test_pictures_hold_the_frame_the_labels_and_the_areas(tmp_path: Path) -> None:
    async def watch(client: Any) -> list[Any]:
        async with client.ws_connect("/ws?stream=front") as viewing:
            hello = (await viewing.receive_json())["hello"]
            assert hello["stream"] == "front"
            assert hello["streams"][0]["source"] == "test source"
            assert [entry["name"] for entry in hello["classes"]][:2] == ["dark", "grey"]
            return await shots(viewing, 5)

    with running(tmp_path) as run:
        seen = ask(run.server, watch)
        for head, (picture, labels) in seen:
            assert decode(picture).shape == (*SIZE, 3)
            expected = run.labels[head["frame"]]
            np.testing.assert_array_equal(decode(labels), expected)
            for name, share in head["areas"].items():
                assert share == pytest.approx((expected == int(name)).mean(), abs=1e-5)
            assert head["steps"] == head["frame"] + 1
            assert head["fps"] >= 0
        frames = [head["frame"] for head, _ in seen]
        assert frames == sorted(set(frames))


def test_nothing_is_encoded_or_compared_without_viewers(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        time.sleep(0.3)
        assert len(run.labels) > 5
        assert "streamseg_page_encoded_total 0.0" in get(run.server, "/metrics")[1]


def test_two_viewers_cost_one_encode(tmp_path: Path) -> None:
    async def watch(client: Any) -> tuple[list[int], list[int]]:
        async with client.ws_connect("/ws") as one, client.ws_connect("/ws") as two:
            both = await asyncio.gather(shots(one, 10), shots(two, 10))
            return tuple([head["frame"] for head, _ in seen] for seen in both)

    with running(tmp_path) as run:
        one, two = ask(run.server, watch)
        text = get(run.server, "/metrics")[1]
        (encoded,) = [
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("streamseg_page_encoded_total")
        ]
    assert set(one) & set(two)
    assert encoded <= max(*one, *two) - min(*one, *two) + 5


def test_comparison_shows_more_flicker_without_state(tmp_path: Path) -> None:
    async def watch(client: Any) -> list[Any]:
        async with client.ws_connect("/ws") as viewing:
            await viewing.send_str('{"compare": true}')
            return await shots(viewing, 60)

    with running(tmp_path) as run:
        seen = ask(run.server, watch)
        with streamseg.open(tmp_path / "bundle", threads=1) as fresh:
            head, (_, _, plain) = seen[-1]
            expected = fresh.step(noisy_frame(head["frame"])).labels
            np.testing.assert_array_equal(decode(plain), expected)
    kept, without = seen[-1][0]["flicker"]
    assert 0 < kept < without / 2
    assert not run.session.resets


def test_reset_button_reaches_the_session(tmp_path: Path) -> None:
    async def watch(client: Any) -> dict[str, Any]:
        async with client.ws_connect("/ws") as viewing:
            async with client.post("/api/reset", json={"stream": "front"}) as answer:
                assert answer.status == 200
            while True:
                message = await viewing.receive()
                if message.type is aiohttp.WSMsgType.TEXT and "event" in message.json():
                    event: dict[str, Any] = message.json()["event"]
                    return event

    with running(tmp_path) as run:
        event = ask(run.server, watch)
        assert (event["kind"], event["cause"], event["stream"]) == ("reset", "request", "front")
        assert event["reason"] == "requested on the web page"
        assert [e.cause for e in run.events if e.kind == "reset"] == ["request"]
        text = get(run.server, "/metrics")[1]
        assert 'streamseg_resets_total{cause="request",stream="front"} 1.0' in text


def test_snapshot_button_writes_into_the_servers_folder(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="snapshot files need safetensors")
    folder = tmp_path / "snapshots"
    with running(tmp_path, snapshots=folder) as run:
        end = time.monotonic() + 30
        status, text = post(run.server, "/api/snapshot", {"stream": "front"})
        while status == 409 and time.monotonic() < end:  # before the first frame
            status, text = post(run.server, "/api/snapshot", {"stream": "front"})
        assert status == 200, text
        (file,) = folder.iterdir()
        assert json.loads(text)["file"] == file.name
        assert file.name.startswith("front-")
        with streamseg.open(tmp_path / "bundle", threads=1) as stream:
            Session(stream).load(file)
            assert stream.steps > 0


def test_snapshot_without_a_folder_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        assert post(run.server, "/api/snapshot", {"stream": "front"})[0] == 409


def test_full_folder_of_snapshots_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.app.MOST_SNAPSHOTS", 0)
    with running(tmp_path, snapshots=tmp_path / "snapshots") as run:
        status, text = post(run.server, "/api/snapshot", {"stream": "front"})
    assert status == 409
    assert "remove some" in text


def test_stalled_stream_does_not_hang_a_button(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.app.ANSWER_SECONDS", 0.2)
    with running(tmp_path) as run:
        run.halted.set()
        time.sleep(0.1)
        status, text = post(run.server, "/api/reset", {"stream": "front"})
    assert status == 504
    assert "queued" in text


def test_viewer_that_stops_reading_never_delays_the_stream(tmp_path: Path) -> None:
    """One reads, one opens the socket and reads nothing: its frames are dropped, not queued."""
    with running(tmp_path) as run:
        run.size = LARGE
        deaf = open_deaf_viewer(run.server)

        async def dropped(client: Any) -> float:
            async with client.ws_connect("/ws") as viewing:
                while True:
                    await shots(viewing, 20)
                    async with client.get("/metrics") as answer:
                        count = page_dropped(await answer.text())
                    if count > 20:
                        return count

        before = len(run.labels)
        assert ask(run.server, dropped) > 20
        assert len(run.labels) - before > 20
        assert run.slowest < 0.5
        deaf.close()


def test_viewer_that_stops_reading_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.app.SEND_SECONDS", 0.3)
    with running(tmp_path) as run, open_deaf_viewer(run.server):
        run.size = LARGE
        end = time.monotonic() + 30
        seen = False
        while time.monotonic() < end:
            viewers = "streamseg_viewers 1.0" in get(run.server, "/metrics")[1]
            seen |= viewers
            if seen and not viewers:
                break
            time.sleep(0.1)
        assert seen
        assert not viewers


def test_streams_come_and_go(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        metrics = StreamMetrics()
        other = Session(run.session.stream.sibling(), name="rear")
        rear = StreamView(other, metrics, lambda: "another")
        run.server.join(rear)
        names = [entry["name"] for entry in json.loads(get(run.server, "/api/streams")[1])]
        assert names == ["front", "rear"]
        run.server.leave(StreamView(other, metrics, lambda: "of the same name, and never shown"))
        assert len(json.loads(get(run.server, "/api/streams")[1])) == 2
        run.server.leave(rear)
        names = [entry["name"] for entry in json.loads(get(run.server, "/api/streams")[1])]
        assert names == ["front"]
        assert post(run.server, "/api/reset", {"stream": "rear"})[0] == 404


def test_page_without_streams_waits_for_one(tmp_path: Path) -> None:
    async def watch(client: Any) -> Any:
        async with client.ws_connect("/ws") as viewing:
            return (await viewing.receive_json())["hello"]["stream"]

    with running(tmp_path) as run:
        run.server.leave(run.view)
        assert ask(run.server, watch) is None


def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with running(tmp_path) as run:
        time.sleep(0.2)
        status, text = get(run.server, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (frames,) = families["streamseg_frames"].samples
    assert frames.labels == {"stream": "front"}
    assert frames.value > 0
    latency = {s.labels.get("le"): s.value for s in families["streamseg_latency_seconds"].samples}
    assert latency["+Inf"] == frames.value
    assert set(families) >= {
        "streamseg_streams", "streamseg_fps", "streamseg_last_frame_age_seconds",
        "streamseg_corrupt", "streamseg_dropped", "streamseg_late", "streamseg_viewers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("healthy", "status", "word"), [(True, 200, "ok"), (False, 503, "stalled")]
)
def test_health_reports_whether_streams_are_stepped(
    tmp_path: Path, healthy: bool, status: int, word: str
) -> None:
    with running(tmp_path, healthy=lambda: healthy) as run:
        got, text = get(run.server, "/healthz")
    assert (got, json.loads(text)) == (status, {"status": word, "streams": 1})


def test_port_in_use_is_reported(tmp_path: Path) -> None:
    with running(tmp_path) as run, pytest.raises(ServeError, match=r"port \d+: .*--port"):
        PageServer((), port=run.server.port)


def test_flicker_is_the_share_of_changed_pixels() -> None:
    meter = FlickerMeter()
    maps = [np.zeros((4, 5), np.uint8) for _ in range(3)]
    maps[1][0] = 1
    for labels in maps:
        meter.add(labels)
    assert meter.mean == pytest.approx(5 / 20)
    meter.add(np.zeros((6, 5), np.uint8))
    assert meter.mean is None
    meter.clear()
    meter.add(maps[0])
    assert meter.mean is None


def test_large_frames_are_sent_smaller_with_labels_that_occur() -> None:
    labels = np.zeros((1080, 1920), np.uint8)
    labels[:, 960:] = 255
    shot = Shot(np.zeros((1080, 1920, 3), np.uint8), labels, None, {})
    head, (picture, small) = unpack(encode_shot(shot))
    assert decode(picture).shape == (540, 960, 3)
    assert set(np.unique(decode(small))) == {0, 255}
    assert head["areas"] == {"0": 0.5, "255": 0.5}

from __future__ import annotations

import functools
import http.server
import itertools
import socket
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.loop.decoding import Decoder
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.session.events import Event
from streamseg.runtime.sources import SourceOptions, open_source
from streamseg.runtime.sources.reader import Picture
from streamseg.runtime.sources.streaming import StreamingSource
from tests.runtime.clips import write_clip
from tests.runtime.streams import (
    MjpegServer,
    RtspServer,
    UdpSender,
    encode_jpeg,
    free_port,
    read_until,
)

QUICK = SourceOptions(timeout=2.0, backoff=1.0)


def test_rtsp_source_reconnects_with_another_size_and_its_time_continues() -> None:
    events: list[Event] = []
    login = ("joe", "s3cret")
    with RtspServer((96, 128), login=login) as first:
        address = f"rtsp://joe:s3cret@127.0.0.1:{first.port}/live"
        with open_source(address, QUICK, on_event=events.append) as source:
            assert (source.live, source.size, source.fps) == (True, (96, 128), 25.0)
            before = read_until(source, lambda frame: frame.index == 20)
            first.kill()
            down = time.monotonic()
            restart = threading.Timer(
                1.5, lambda: servers.append(RtspServer((64, 96), port=first.port, login=login))
            )
            servers: list[RtspServer] = []
            restart.start()
            try:
                after = read_until(source, lambda frame: frame.size == (64, 96))
                after += read_until(source, lambda frame: frame.index == after[-1].index + 10)
            finally:
                restart.join()
                for server in servers:
                    server.kill()
            gap = after[-11].received - down
    frames = before + after
    assert source.reconnects == 1
    assert [frame.index for frame in frames] == list(range(len(frames)))
    times = [frame.timestamp for frame in frames]
    assert times == sorted(times)
    changed = next(frame for frame in frames if frame.size == (64, 96))
    jump = changed.timestamp - frames[changed.index - 1].timestamp
    assert jump == pytest.approx(gap, abs=0.7)
    assert frames[-1].timestamp - changed.timestamp == pytest.approx(0.4, abs=0.1)
    assert [event.kind for event in events] == ["lost", "back"]
    assert [event.frame for event in events] == [changed.index, changed.index]
    assert events[1].timestamp == changed.timestamp
    assert events[1].reason.endswith("with 64x96")
    assert "s3cret" not in repr(events) + source.name
    assert source.name == f"rtsp://***@127.0.0.1:{first.port}/live"


def test_rtsp_over_udp_gives_the_same_frames() -> None:
    with (
        RtspServer((96, 128)) as server,
        open_source(server.address + "#transport=udp", QUICK) as source,
    ):
        frames = read_until(source, lambda frame: frame.index == 30)
    assert {frame.size for frame in frames} == {(96, 128)}
    steps = np.diff([frame.timestamp for frame in frames[5:]])
    np.testing.assert_allclose(steps.mean(), 0.04, atol=0.01)


def test_wrong_password_is_reported_at_once_and_not_shown() -> None:
    with RtspServer((96, 128), login=("joe", "right")) as server:
        address = f"rtsp://joe:wr0ng@127.0.0.1:{server.port}/live"
        with pytest.raises(SourceError, match="401 Unauthorized") as caught:
            open_source(address, QUICK)
    assert "wr0ng" not in str(caught.value)


def test_reconnect_gives_up_at_its_limit() -> None:
    options = SourceOptions(timeout=2.0, backoff=0.2, reconnect=2)
    with RtspServer((96, 128)) as server, open_source(server.address, options) as source:
        frames = iter(source)
        next(frames)
        server.kill()
        with pytest.raises(SourceError, match=r"is lost: .*gave up after 2 attempts"):
            for _ in frames:
                pass


def test_silent_server_times_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
        begin = time.monotonic()
        with pytest.raises(SourceError, match=r"does not open: no data for 0\.5 s"):
            open_source(address, SourceOptions(timeout=0.5))
        assert time.monotonic() - begin < 3


def test_source_that_is_not_up_yet_is_awaited() -> None:
    port = free_port()
    servers: list[RtspServer] = []
    start = threading.Timer(1.0, lambda: servers.append(RtspServer((96, 128), port=port)))
    start.start()
    options = SourceOptions(timeout=2.0, backoff=0.5, await_source=True)
    try:
        with open_source(f"rtsp://127.0.0.1:{port}/live", options) as source:
            assert source.size == (96, 128)
    finally:
        start.join()
        for server in servers:
            server.kill()


def test_stop_ends_a_blocked_read_within_the_time_out() -> None:
    with (
        RtspServer((96, 128)) as server,
        open_source(server.address, SourceOptions(timeout=1.5)) as source,
    ):
        decoder = Decoder(source, StageTimes())
        decoder.start()
        assert decoder.wait() is not None
        server.freeze()
        time.sleep(0.5)
        begin = time.monotonic()
        decoder.halt()
        assert time.monotonic() - begin < 2.5
        assert not decoder.is_alive()


def test_close_during_a_read_returns_at_once_and_the_reader_cleans_up() -> None:
    with RtspServer((96, 128)) as server:
        source = open_source(server.address, SourceOptions(timeout=1.5))
        decoder = Decoder(source, StageTimes())
        decoder.start()
        assert decoder.wait() is not None
        server.freeze()
        time.sleep(0.5)
        begin = time.monotonic()
        source.close()
        assert time.monotonic() - begin < 0.2
        decoder.join(5)
        assert not decoder.is_alive()
        assert source._reader is None  # type: ignore[attr-defined]


def test_stop_ends_the_pause_between_two_attempts() -> None:
    options = SourceOptions(timeout=1.5, backoff=60.0)
    events: list[Event] = []
    with (
        RtspServer((96, 128)) as server,
        open_source(server.address, options, on_event=events.append) as source,
    ):
        source._backoff._next = 60.0  # type: ignore[attr-defined]
        decoder = Decoder(source, StageTimes())
        decoder.start()
        assert decoder.wait() is not None
        server.kill()
        while not events:
            time.sleep(0.01)
        begin = time.monotonic()
        decoder.halt()
        assert time.monotonic() - begin < 1
    assert decoder.error is None


def test_mjpeg_over_http_counts_truncated_pictures_and_follows_their_size() -> None:
    sizes = [(48, 64)] * 12 + [(32, 80)] * 12
    parts = [encode_jpeg(index, size) for index, size in enumerate(sizes)]
    for number in (5, 8):
        parts[number] = parts[number][: len(parts[number]) * number // 10]
    events: list[Event] = []
    options = SourceOptions(timeout=2.0, backoff=0.1)
    with MjpegServer(parts, pauses={10: 0.6}) as server:
        address = server.address.replace("//", "//joe:pw@") + "camera?resolution=low#fps=100"
        with open_source(address, options, on_event=events.append) as source:
            assert (source.live, source.size) == (True, (48, 64))
            assert source.name == server.address.replace("//", "//***@") + "camera?resolution=low"
            frames = read_until(source, lambda frame: bool(frame.index == 30))
    assert source.corrupt == 2 + 2
    assert source.reconnects == 1
    assert [event.kind for event in events] == ["lost", "back"]
    # 24 parts; the last is complete only when another begins, so it may be lost with the end.
    whole = [number for number in range(24) if number not in (5, 8)]
    shown = [round(float(frame.image[..., 2].mean()) / 10) for frame in frames]
    assert shown[:21] == whole[:21]
    assert {frame.size for frame in frames[:10]} == {(48, 64)}
    assert {frame.size for frame in frames[10:21]} == {(32, 80)}
    times = [frame.timestamp for frame in frames]
    assert times == sorted(times)
    assert times[8] - times[7] == pytest.approx(0.6, abs=0.25)


def test_file_over_http_is_a_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=7)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/clip.mp4"
        with open_source(address) as source:
            assert (source.live, source.frame_count) == (False, 7)
            assert len(list(source)) == 7
        with pytest.raises(SourceError, match="404 Not Found"):
            open_source(address + "x")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("b_frames", [0, 2])
def test_udp_source_resumes_when_its_sender_does(b_frames: int) -> None:
    port, events = free_port(), list[Event]()
    options = SourceOptions(timeout=1.0, backoff=0.3, await_source=True)
    with UdpSender(port, (48, 64), b_frames=b_frames) as sender:
        source = open_source(f"udp://127.0.0.1:{port}", options, on_event=events.append)
        with source:
            before = read_until(source, lambda frame: frame.index == 25)
            sender.stop()
            again = UdpSender(port, (32, 80), b_frames=b_frames)
            threading.Timer(2.0, again.start).start()
            after = read_until(source, lambda frame: frame.size == (32, 80))
            again.stop()
    assert [event.kind for event in events] == ["lost", "back"]
    assert "no data for 1 s" in events[0].reason
    shown = [round(float(frame.image[..., 2].mean()) / 10) for frame in before]
    assert all((b - a) % 25 == 1 for a, b in itertools.pairwise(shown))
    steps = np.diff([frame.timestamp for frame in before])
    np.testing.assert_allclose(steps, 0.04, atol=1e-3)
    times = [frame.timestamp for frame in before + after]
    assert times == sorted(times)


def test_udp_port_without_packets_is_reported() -> None:
    with pytest.raises(SourceError, match=r"does not open: no data for 0\.5 s"):
        open_source(f"udp://127.0.0.1:{free_port()}", SourceOptions(timeout=0.5))


class Flaky:
    """A live reader whose connections end with exceptions of other libraries."""

    live, fps, frame_count, corrupt, detail = True, 25.0, None, 0, ""
    errors = (ValueError("v"), cv2.error("c"), MemoryError("m"))

    def __init__(self, connection: int) -> None:
        self._connection, self._given = connection, 0

    def read(self) -> Picture:
        self._given += 1
        if self._given == 4 and self._connection < len(self.errors):
            raise self.errors[self._connection]
        image = np.full((4, 6, 3), 10 * self._connection + self._given, np.uint8)
        return Picture(lambda: image, (4, 6), None)

    def close(self) -> None:
        pass


def test_live_source_reconnects_whatever_its_reader_raises() -> None:
    connections = itertools.count()

    def connect() -> Flaky:
        number = next(connections)
        if number == 2:
            raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "title")
        return Flaky(number if number < 2 else number - 1)

    events: list[Event] = []
    options = SourceOptions(backoff=0.1)
    source = StreamingSource(connect, "flaky", options, on_event=events.append)
    with source:
        values = [int(frame.image[0, 0, 0]) for frame in itertools.islice(source, 12)]
    assert values == [1, 2, 3, 11, 12, 13, 21, 22, 23, 31, 32, 33]
    assert [event.kind for event in events] == ["lost", "back"] * 3
    reasons = [event.reason for event in events if event.kind == "lost"]
    names = ("ValueError: v", "error: c", "MemoryError: m")
    assert all(name in reason for name, reason in zip(names, reasons, strict=True))


def test_exceptions_of_a_file_are_errors_of_the_source() -> None:
    class Broken(Flaky):
        live = False

    with (
        StreamingSource(lambda: Broken(0), "file", SourceOptions()) as source,
        pytest.raises(SourceError, match="file: ValueError: v"),
    ):
        list(source)

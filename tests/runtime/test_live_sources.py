from __future__ import annotations

import threading
import time

import pytest

from streamseg.errors import SourceError
from streamseg.runtime.decoding import Decoder
from streamseg.runtime.events import Event
from streamseg.runtime.sources import SourceOptions, open_source
from streamseg.runtime.times import StageTimes
from tests.runtime.streams import RtspServer, free_port, read_until

QUICK = SourceOptions(timeout=2.0, backoff=1.0)


def test_rtsp_source_comes_back_with_another_size_and_its_time_goes_on() -> None:
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


def test_wrong_password_is_told_at_once_and_not_shown() -> None:
    with RtspServer((96, 128), login=("joe", "right")) as server:
        address = f"rtsp://joe:wr0ng@127.0.0.1:{server.port}/live"
        with pytest.raises(SourceError, match="401 Unauthorized") as caught:
            open_source(address, QUICK)
    assert "wr0ng" not in str(caught.value)


def test_reconnect_gives_up_where_told() -> None:
    options = SourceOptions(timeout=2.0, backoff=0.2, reconnect=2)
    with RtspServer((96, 128)) as server, open_source(server.address, options) as source:
        frames = iter(source)
        next(frames)
        server.kill()
        with pytest.raises(SourceError, match=r"is lost: .*gave up after 2 attempts"):
            for _ in frames:
                pass


def test_silent_server_times_out() -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
        begin = time.monotonic()
        with pytest.raises(SourceError, match=r"does not open: no data for 0\.5 s"):
            open_source(address, SourceOptions(timeout=0.5))
        assert time.monotonic() - begin < 3


def test_source_that_is_not_there_yet_is_awaited() -> None:
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
    import os
    import signal

    with RtspServer((96, 128)) as server:
        options = SourceOptions(timeout=1.5)
        with open_source(server.address, options) as source:
            decoder = Decoder(source, StageTimes())
            decoder.start()
            assert decoder.wait() is not None
            os.kill(server._process.pid, signal.SIGSTOP)
            try:
                time.sleep(0.5)
                begin = time.monotonic()
                decoder.halt()
                assert time.monotonic() - begin < 2.5
                assert not decoder.is_alive()
            finally:
                os.kill(server._process.pid, signal.SIGCONT)

"""The page as the view of a run: in place of a window, and through ``Stream.run``."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from streamseg.errors import ServeError, SinkError
from streamseg.runtime.session.events import Event
from streamseg.runtime.sources import open_source
from streamseg.runtime.stream import Stream, open_stream
from tests.runtime.toy import write_toy_bundle

pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")
websocket = pytest.importorskip("websocket", reason="it comes with selenium, of the extra 'dev'")

from streamseg.serving.live_page import LivePage, open_page, open_viewer  # noqa: E402

SCENE = "synthetic:clean?size=32x48&fps=50#realtime"
NO_DISPLAY = "there is no display"


def receive_shot(url: str) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The head and the labels of the first picture, by a client of another library."""
    socket = websocket.create_connection(url.replace("http", "ws") + "ws", timeout=20)
    try:
        end = time.monotonic() + 60
        while isinstance(message := socket.recv(), str):
            assert time.monotonic() < end, "no picture came"
    finally:
        socket.close()
    (length,) = struct.unpack_from(">I", message)
    head = json.loads(message[4 : 4 + length])
    picture, labels = head["parts"]
    start = 4 + length + picture
    decoded = cv2.imdecode(np.frombuffer(message[start : start + labels], np.uint8), -1)
    return head, np.asarray(decoded, np.uint8)


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    with open_stream(write_toy_bundle(tmp_path / "toy"), backend="onnxruntime") as opened:
        yield opened


@pytest.fixture
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.serving.live_page.find_window_problem", lambda: NO_DISPLAY)


@pytest.mark.usefixtures("no_window")
def test_viewer_without_window_is_the_page_with_pictures_and_figures(stream: Stream) -> None:
    said: list[str] = []
    events: list[Event] = []
    with open_viewer(stream, say=said.append) as viewer, open_source(SCENE) as source:
        assert isinstance(viewer, LivePage)
        assert said == [f"{viewer.url} shows the pictures; no window: {NO_DISPLAY}"]
        running = threading.Thread(
            target=lambda: stream.run(source, show=viewer, on_event=events.append)
        )
        running.start()
        head, labels = receive_shot(viewer.url)
        assert labels.shape == (32, 48)
        assert head["frame"] >= 0
        with urlopen(f"{viewer.url}api/streams") as answer:
            (entry,) = json.load(answer)
        assert entry["source"].startswith("synthetic:clean")
        source.stop()
        running.join(30)
        assert not running.is_alive()
    assert [event.kind for event in events] == ["start", "end"]


@pytest.mark.usefixtures("no_window")
def test_without_both_the_error_names_both_extras(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.live_page.REQUIRED", ("no_such_module",))
    expected = r"cannot open a window: there is no display; nor the page: no_such_module is not ins"
    with pytest.raises(SinkError, match=expected), open_viewer(stream):
        pass


def test_viewer_is_a_window_where_there_can_be_one(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.live_page.find_window_problem", lambda: "")
    with open_viewer(stream) as viewer:
        assert viewer is True


def test_taken_port_is_another_one_unless_it_was_asked_for(stream: Stream) -> None:
    with open_page(stream) as first, open_page(stream) as second:
        assert first.url != second.url
        port = int(second.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(ServeError, match=f"port {port}"), open_page(stream, port=port):
            pass


@pytest.mark.usefixtures("no_window")
def test_resets_of_a_run_are_counted_on_the_page(stream: Stream) -> None:
    with open_viewer(stream) as viewer:
        assert isinstance(viewer, LivePage)
        kinds: list[dict[str, int]] = []

        def look(event: Event) -> None:
            if event.kind == "end":
                (member,) = viewer._views
                kinds.append(member.metrics.read().events)

        stream.run(SCENE, show=viewer, frames=3, on_event=look)
        assert kinds == [{"start": 1, "end": 1}]
        assert viewer._views == {}

"""Real streams on loopback for tests: RTSP, MJPEG over HTTP, MPEG-TS over UDP."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import av
import cv2
import pytest

from streamseg.runtime.sources import Frame, Source
from streamseg.runtime.video.resize import Size
from tests.runtime.clips import gradient_frame

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")


def free_port() -> int:
    """A TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@functools.cache
def missing_stream_tools() -> str:
    """Why there can be no RTSP server here; empty where there can."""
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
        "missing = [n for n in ('x264enc', 'rtph264pay') if not Gst.ElementFactory.find(n)]\n"
        "raise SystemExit(f'no element {missing}' if missing else 0)"
    )
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, text=True)
    except FileNotFoundError:
        return f"no {SYSTEM_PYTHON}"
    lines = done.stderr.strip().splitlines()
    return f"no RTSP server ({lines[-1]}); run: make stream-tools" if done.returncode else ""


class RtspServer:
    """``rtsp://127.0.0.1:<port>/live`` at 25 frames a second; skips the test where it cannot be."""

    def __init__(
        self, size: Size, *, port: int | None = None, gop: int = 10, login: tuple[str, ...] = ()
    ) -> None:
        if missing := missing_stream_tools():
            pytest.skip(missing)
        self.port = port or free_port()
        command = [SYSTEM_PYTHON, str(SERVER), str(self.port), f"{size[0]}x{size[1]}", "25"]
        self._process = subprocess.Popen(
            [*command, str(gop), *login], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    @property
    def address(self) -> str:
        """Without a user."""
        return f"rtsp://127.0.0.1:{self.port}/live"

    def freeze(self) -> None:
        """Keep the connection and send no more; ``kill`` still ends it."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it as a power cut would, and wait until its port is free."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def read_until(
    source: Source, enough: Callable[[Frame], bool], *, seconds: float = 30.0
) -> list[Frame]:
    """Frames up to the first that is enough."""
    frames, begin = [], time.monotonic()
    for frame in source:
        frames.append(frame)
        if enough(frame):
            return frames
        assert time.monotonic() - begin < seconds, "the frame waited for did not come"
    raise AssertionError("the source ended before the frame waited for")


class MjpegServer:
    """``http://127.0.0.1:<port>/``: JPEG pictures as a camera's multipart stream.

    Args:
        parts: content of each part; the connection ends after the last. Every client gets all.
        seconds: between two parts.
        pauses: number of a part -> seconds to wait before it.
        port: to listen on; 0 takes a free one.
    """

    def __init__(
        self,
        parts: Sequence[bytes],
        *,
        seconds: float = 0.02,
        pauses: Mapping[int, float] = {},
        port: int = 0,
    ) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                kind = "multipart/x-mixed-replace; boundary=frame"
                self.send_header("Content-Type", kind)
                self.end_headers()
                for number, part in enumerate(parts):
                    time.sleep(pauses.get(number, seconds))
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}"
                    try:
                        self.wfile.write(head.encode() + b"\r\n\r\n" + part + b"\r\n")
                    except OSError:
                        return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> MjpegServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def encode_jpeg(index: int, size: Size) -> bytes:
    """A ``gradient_frame`` as JPEG."""
    return cv2.imencode(".jpg", gradient_frame(index, size)[..., ::-1])[1].tobytes()


class UdpSender(threading.Thread):
    """Sends ``gradient_frame``s as MPEG-TS to a port of loopback, at 25 a second, until stopped."""

    def __init__(self, port: int, size: Size, *, b_frames: int = 0) -> None:
        super().__init__()
        self._port, self._size, self._b_frames = port, size, b_frames
        self._halt = threading.Event()

    def run(self) -> None:
        """Send."""
        url = f"udp://127.0.0.1:{self._port}?pkt_size=1316"
        with av.open(url, "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width = self._size
            stream.pix_fmt = "yuv420p"
            stream.options = {"g": "10", "bf": str(self._b_frames), "crf": "15"}
            begin = time.monotonic()
            for index in range(1000):
                frame = av.VideoFrame.from_ndarray(
                    gradient_frame(index % 25, self._size), format="rgb24"
                )
                frame.pts = index
                container.mux(stream.encode(frame))
                if self._halt.wait(max(0.0, begin + index / 25 - time.monotonic())):
                    break

    def stop(self) -> None:
        """Send no more."""
        self._halt.set()
        self.join()

    def __enter__(self) -> UdpSender:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

"""Real streams on loopback for tests: RTSP, MJPEG over HTTP, MPEG-TS over UDP."""

from __future__ import annotations

import functools
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest

from streamseg.runtime.resize import Size
from streamseg.runtime.sources import Frame, Source

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

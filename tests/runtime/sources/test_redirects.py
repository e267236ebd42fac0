"""Redirects of HTTP sources: followed on the same host, refused into private networks."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from itertools import islice

import av
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import SourceOptions, open_source
from streamseg.runtime.sources.reader import UnusableSource
from streamseg.runtime.sources.redirects import _is_public, follow_redirects
from tests.runtime.streams import MjpegServer, encode_jpeg

SIZE = (48, 64)


class Redirect:
    """A server that sends every visitor to one address."""

    def __init__(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers["Authorization"]))
                self.send_response(302)
                self.send_header("Location", outer.location)
                self.end_headers()

        self.location = ""
        self.asked: list[tuple[str, str | None]] = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))


@pytest.fixture
def redirect() -> Iterator[Redirect]:
    server = Redirect()
    server.thread.start()
    yield server
    server.server.shutdown()
    server.thread.join()
    server.server.server_close()


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    with MjpegServer([encode_jpeg(i, SIZE) for i in range(30)]) as server:
        yield server


def frames(address: str, **options: bool) -> int:
    with open_source(address, SourceOptions(timeout=3, reconnect=0, **options)) as source:
        return sum(1 for _ in islice(source, 5))


def test_same_host_is_followed(redirect: Redirect, camera: MjpegServer) -> None:
    redirect.location = camera.address
    assert frames(redirect.address) == 5


def test_private_address_of_another_host_is_refused(
    redirect: Redirect, camera: MjpegServer
) -> None:
    redirect.location = camera.address.replace("127.0.0.1", "localhost") + "?key=hunter2"
    with pytest.raises(UnusableSource, match=r"another host in a private network.*#private-redir"):
        frames(redirect.address)
    with pytest.raises(UnusableSource) as caught:
        frames(redirect.address)
    assert "hunter2" not in str(caught.value)
    assert frames(redirect.address, private_redirects=True) == 5
    assert frames(redirect.address + "#private-redirects") == 5
    # FFmpeg by itself goes there.
    with av.open(redirect.address, timeout=3) as container:
        assert container.streams.video


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "expected an http or https address"),
        ("rtsp://127.0.0.1/x", "expected an http or https address"),
        ("http://10.0.0.1/", "private network"),
        ("http://[::1]:1/", "private network"),
        ("http://[::ffff:127.0.0.1]/", "private network"),
        ("http://169.254.169.254/latest", "private network"),
        ("http://0x7f000001/", "private network"),
        ("http://[bad", "redirects to"),
        ("/again", "more than 8 redirects"),
    ],
)
def test_links_that_must_not_be_followed(redirect: Redirect, location: str, reason: str) -> None:
    redirect.location = location
    with pytest.raises(UnusableSource, match=reason):
        frames(redirect.address)


def test_user_goes_to_the_first_host_only(redirect: Redirect, camera: MjpegServer) -> None:
    redirect.location = camera.address
    address = redirect.address.replace("//", "//joe:p%40w@") + "a?b=1"
    assert follow_redirects(address, timeout=3, private=False) == camera.address
    assert redirect.asked == [("/a?b=1", "Basic am9lOnBAdw==")]


def test_unreachable_server_keeps_the_first_reason() -> None:
    with pytest.raises(SourceError, match="Connection refused"):
        frames("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("ip", "public"),
    [("8.8.8.8", True), ("192.168.1.1", False), ("224.0.0.1", False), ("fe80::1%eth0", False)],
)
def test_public_addresses(ip: str, public: bool) -> None:
    assert _is_public(ip) is public

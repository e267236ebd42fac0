"""Who may ask the page's server, and what it withstands."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamseg.errors import ServeError

aiohttp = pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="the page needs the extra 'serve'")

from streamseg.serving import access  # noqa: E402
from streamseg.serving.access import Access, read_token  # noqa: E402
from streamseg.serving.server import HEADER_LIMIT, PageServer  # noqa: E402
from tests.serving.test_server import ask, get, running  # noqa: E402

TOKEN = "correct-horse-battery-staple"
ROUTES = ["/", "/page.js", "/ws", "/api/streams", "/metrics", "/no/such/page"]


@pytest.fixture
def guarded() -> Iterator[PageServer]:
    with PageServer((), token=TOKEN) as server:
        yield server


@pytest.fixture
def local() -> Iterator[PageServer]:
    with PageServer(()) as server:
        yield server


def status_of(server: PageServer, path: str, **options: Any) -> int:
    async def send(client: Any) -> int:
        method = options.pop("method", "GET")
        async with client.request(method, path, allow_redirects=False, **options) as answer:
            await answer.read()
            status: int = answer.status
            return status

    return ask(server, send)


def raw(server: PageServer, content: bytes, seconds: float = 0.5, *, end: bool = False) -> bytes:
    """Send bytes as they are; what comes back until the server closes or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(content)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Cookie": "streamseg=wrong"},
        {"Cookie": f"streamseg={TOKEN}"},
        {"Cookie": "streamseg=\xff"},
    ],
)
def test_wrong_token_is_401(guarded: PageServer, path: str, headers: dict[str, str]) -> None:
    assert status_of(guarded, path, headers=headers) == 401


@pytest.mark.parametrize("path", ["/api/reset", "/api/snapshot"])
def test_buttons_need_the_token(guarded: PageServer, path: str) -> None:
    body = {"stream": "front"}
    assert status_of(guarded, path, method="POST", json=body) == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert status_of(guarded, path, method="POST", json=body, headers=headers) == 404


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/streams", "/metrics"])
def test_right_token_is_let_in(guarded: PageServer, path: str) -> None:
    assert status_of(guarded, path, headers={"Authorization": f"bearer {TOKEN}"}) == 200


def test_health_and_the_form_need_no_token(guarded: PageServer) -> None:
    assert status_of(guarded, "/healthz") == 200
    status, text = get(guarded, "/")
    assert status == 401
    assert '<input id="token"' in text
    assert "/ws" not in text


def test_form_sets_a_cookie_that_hides_the_token(guarded: PageServer) -> None:
    async def enter(client: Any) -> tuple[str, int]:
        async with client.post("/login", data={"token": "wrong"}) as answer:
            assert answer.status == 401
            assert "Set-Cookie" not in answer.headers
        sent = {"token": f" {TOKEN} "}
        async with client.post("/login", data=sent, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
        value = cookie.partition("=")[2].partition(";")[0]
        async with client.get("/api/streams", headers={"Cookie": f"streamseg={value}"}) as answer:
            return cookie, answer.status

    cookie, status = ask(guarded, enter)
    assert status == 200
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_cookie_outlives_a_restart_but_not_another_token(guarded: PageServer) -> None:
    cookie = {"Cookie": f"streamseg={Access('127.0.0.1', TOKEN).cookie}"}
    assert status_of(guarded, "/api/streams", headers=cookie) == 200
    cookie = {"Cookie": f"streamseg={Access('127.0.0.1', TOKEN + '2').cookie}"}
    assert status_of(guarded, "/api/streams", headers=cookie) == 401


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    with PageServer((), token=TOKEN) as server:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert status_of(server, "/api/streams", headers=headers) == 401
        assert status_of(server, "/api/streams", headers={"Cookie": "streamseg=x"}) == 401
    assert (TOKEN.encode(), TOKEN.encode()) in compared
    assert len(compared) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "camera.local"])
def test_server_that_others_reach_needs_a_token(host: str) -> None:
    with pytest.raises(ServeError, match=r"needs a token.*STREAMSEG_TOKEN.*secrets"):
        PageServer((), host=host)
    Access(host, TOKEN)


def test_short_token_is_refused() -> None:
    with pytest.raises(ServeError, match=r"3 characters, expected 16"):
        PageServer((), token="abc")


def test_token_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN
    with pytest.raises(ServeError, match="No such file"):
        read_token(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ServeError, match="not text"):
        read_token(tmp_path / "binary")


def test_token_is_never_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with PageServer((), token=TOKEN) as server:
        status_of(server, "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        status_of(server, "/metrics", headers={"Authorization": f"Bearer {TOKEN}wrong"})
        status_of(server, "/login", method="POST", data={"token": TOKEN})
        status_of(server, "/api/reset", method="POST", data=TOKEN)
        raw(server, f"GET / HTTP/9.9\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        raw(server, f"Bearer {TOKEN}\r\n\r\n".encode())
    seen = caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in seen


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_other_sites_pages_are_refused(local: PageServer, origin: str) -> None:
    headers = {"Origin": origin}
    assert status_of(local, "/api/reset", method="POST", json={}, headers=headers) == 403
    assert status_of(local, "/ws", headers=headers) == 403
    own = {"Origin": local.url.rstrip("/")}
    assert status_of(local, "/api/reset", method="POST", json={}, headers=own) == 400


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "[::1", "127.0.0.1.evil"])
def test_foreign_names_for_this_machine_are_refused(local: PageServer, host: str) -> None:
    answer = raw(local, f"GET /api/streams HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.split()[1] in (b"403", b"400")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
def test_own_names_are_answered(local: PageServer, name: str) -> None:
    request = f"GET /api/streams HTTP/1.1\r\nHost: {name}:{local.port}\r\n\r\n"
    assert raw(local, request.encode()).split()[1] == b"200"


def test_forms_of_other_sites_cannot_press_buttons(local: PageServer) -> None:
    body = '{"stream": "front"}'
    headers = {"Content-Type": "text/plain"}
    assert status_of(local, "/api/reset", method="POST", data=body, headers=headers) == 415


@pytest.mark.parametrize(
    "request_head",
    [
        f"GET /{'x' * (HEADER_LIMIT + 1)} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {'x' * (HEADER_LIMIT + 1)}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n" + "X-Many: 1\r\n" * 200 + "\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {'a=b; ' * 2000}\r\n\r\n",
    ],
    ids=["line", "field", "many", "cookie"],
)
def test_headers_have_limits(local: PageServer, request_head: str) -> None:
    assert raw(local, request_head.encode()).split()[1] in (b"400", b"431")
    assert status_of(local, "/healthz") == 200


@pytest.mark.parametrize("path", ["/api/reset", "/api/snapshot", "/login"])
def test_bodies_have_a_limit(local: PageServer, path: str) -> None:
    kind = "application/x-www-form-urlencoded" if path == "/login" else "application/json"
    headers = {"Content-Type": kind}
    big = b"x" * 100_000
    assert status_of(local, path, method="POST", data=big, headers=headers) == 413


@pytest.mark.parametrize(
    "body", ["", "[]", "7", "null", "{}", '{"stream": []}', '{"stream": 1}', "[" * 1000, "\ud800"]
)
def test_meaningless_bodies_are_rejected(local: PageServer, body: str) -> None:
    content = body.encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "application/json"}
    status = status_of(local, "/api/reset", method="POST", data=content, headers=headers)
    assert status in (400, 404)


def test_messages_of_viewers_are_limited_and_invalid_ones_ignored(tmp_path: Path) -> None:
    async def talk(client: Any) -> int | None:
        async with client.ws_connect("/ws") as viewing:
            for text in ("", "{", '{"compare": 1}', '{"compare":true,"x":"../.."}'):
                await viewing.send_str(text)
            await viewing.send_bytes(b"\x00")
            while (await viewing.receive()).type is not aiohttp.WSMsgType.BINARY:
                pass
            await viewing.send_str("x" * 5000)
            while (message := await viewing.receive()).type is not aiohttp.WSMsgType.CLOSE:
                pass
            code: int = message.data
            return code

    with running(tmp_path) as run:
        assert ask(run.server, talk) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        assert not any(viewer.compares for viewer in run.view.viewers)


def test_too_many_viewers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.serving.app.MOST_VIEWERS", 1)

    async def talk(client: Any) -> None:
        async with client.ws_connect("/ws"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await client.ws_connect("/ws")
            assert caught.value.status == 503

    with running(tmp_path) as run:
        ask(run.server, talk)


def test_incomplete_request_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.serving.server.IDLE_SECONDS", 0.5)
    monkeypatch.setattr("streamseg.serving.app.READ_SECONDS", 0.5)
    body = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    body += "Content-Type: application/x-www-form-urlencoded\r\n\r\ntok"
    with PageServer(()) as server:
        for part in ("", "GET / HTTP/1.1\r\nHost: loc", body):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(part.encode())
                began = time.monotonic()
                while connection.recv(65536):
                    pass
                assert time.monotonic() - began < 8


opened: list[str] = []


def note_opening(event: str, arguments: tuple[Any, ...]) -> None:
    kinds = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir")
    if event in kinds and threading.current_thread().name == "streamseg-page":
        opened.append(f"{event} {arguments[0]}")


def test_no_path_of_a_request_reaches_the_file_system(tmp_path: Path) -> None:
    """Python's audit hook sees every opening; the server's thread must do none for a request."""
    secret = tmp_path / "secret"
    secret.write_text("private")
    paths = [
        "/../../../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.js/../../server.py",
        "/page/index.html",
        f"/{secret}",
        "/page.js%00",
        "/api/streams?file=/etc/passwd",
        "/ws?stream=../../etc/passwd",
    ]
    snapshots = tmp_path / "snapshots"
    with running(tmp_path, snapshots=snapshots) as run:
        get(run.server, "/page.js")
        sys.addaudithook(note_opening)
        opened.clear()
        for path in paths:
            answer = raw(run.server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert answer
            assert b"root:" not in answer
            assert b"private" not in answer
        for name in ("../../x", "/etc/passwd", str(secret), "front/../../x", "front\0", "."):
            body = {"stream": name}
            assert status_of(run.server, "/api/snapshot", method="POST", json=body) == 404
        assert opened == []
        assert list(snapshots.iterdir()) == []


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=200).map(
            lambda b: b"GET /" + b + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        ),
        st.binary(max_size=200).map(
            lambda b: (
                b"POST /api/reset HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                b"\r\nContent-Length: " + str(len(b)).encode() + b"\r\n\r\n" + b
            )
        ),
    )
)
def test_arbitrary_bytes_do_not_crash(local: PageServer, content: bytes) -> None:
    answer = raw(local, content, end=True)
    assert answer == b"" or answer.split()[1] in (b"200", b"400", b"404", b"405", b"403", b"415")
    assert status_of(local, "/healthz") == 200

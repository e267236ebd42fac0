"""Seeded damage to requests: an answer below 500 or none, and nothing in the log."""

from __future__ import annotations

import gc
import logging
import random
import socket
from collections import Counter

import pytest

from tests.fuzzing import damage, inputs, scaled

pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="the page needs the extra 'serve'")

from streamseg.serving.server import PageServer

TOKEN = "correct-horse-battery-staple"
HEAD = f"Host: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
FORM = b"application/x-www-form-urlencoded"
PART = b'--b\r\nContent-Disposition: form-data; name="token"'
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"


def post(path: bytes, kind: bytes, body: bytes, more: bytes = b"") -> bytes:
    length = str(len(body)).encode()
    lines = b"POST " + path + b" HTTP/1.1\r\n" + HEAD + more
    return lines + b"Content-Type: " + kind + b"\r\nContent-Length: " + length + b"\r\n\r\n" + body


REQUESTS = (
    post(b"/login", FORM + b"; charset=utf-8", b"token=abc%ff"),
    post(b"/login", FORM + b"; charset=klingon", b"token=abc"),
    post(b"/login", FORM, b"hello", b"Content-Encoding: gzip\r\n"),
    post(b"/login", b"multipart/form-data; boundary=b", PART + b"\r\n\r\nabc\r\n--b--\r\n"),
    post(b"/login", b"multipart/form-data", PART + b"\r\n\r\nabc\r\n--b--\r\n"),
    post(b"/login", b"multipart/form-data; boundary=" + b"b" * 200, PART),
    post(
        b"/login",
        b"multipart/form-data; boundary=b",
        PART + b'; filename="x"\r\nContent-Type: text/plain; charset=no\r\n\r\nabc\r\n--b--\r\n',
    ),
    post(
        b"/login",
        b"multipart/form-data; boundary=b",
        PART + b"\r\nContent-Transfer-Encoding: none\r\n\r\nabc\r\n--b--\r\n",
    ),
    post(b"/api/reset", b"application/json; charset=utf-16", b'{"stream":"front"}'),
    post(b"/api/reset", b"application/json; charset=none", b'{"stream":"front"}'),
    post(b"/api/reset", b"application/json", b'{"stream":["x"]}'),
    post(b"/api/reset", b"application/json", b"[" * 1000),
    post(b"/api/reset", b"application/json", b"1" * 1000),
    post(b"/api/snapshot", b"application/json", b"\xff\xfe{}"),
    b"GET /ws HTTP/1.1\r\n" + HEAD + UPGRADE + b"Sec-WebSocket-Key: \xaf\xfe\r\n\r\n",
    b"GET http://[::1/x HTTP/1.1\r\n" + HEAD + b'Cookie: a="\\\r\n\r\n',
    b"GET /%ff%00?a=%zz HTTP/1.1\r\n" + HEAD.replace(b"127.0.0.1", b"[::1") + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HEAD.replace(TOKEN.encode(), b"\xff\xfe") + b"Origin: \xff\r\n\r\n",
)


def answer_of(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while piece := connection.recv(65536):
                answer += piece
        except OSError:  # the server waits for more, or does not
            pass
        return answer


# aiohttp itself leaves an upload open whose request turns out to be broken; it lies in memory.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_requests_are_answered_without_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamseg.serving.connections.FIRST_DELAY", 0.0)
    rng = random.Random(6)
    answers: Counter[bytes] = Counter()
    with PageServer((), token=TOKEN) as server, caplog.at_level(logging.DEBUG):
        for number in range(inputs(250)):
            whole = number < len(REQUESTS)
            request = REQUESTS[number] if whole else damage(rng.choice(REQUESTS), rng)
            answer = answer_of(server.port, request)
            assert not answer or b"400" <= answer[9:12] < b"500", (request, answer)
            answers[answer[9:12]] += 1
    gc.collect()  # what aiohttp left open, while its warning is ignored
    assert not [record for record in caplog.records if record.exc_info]
    assert answers[b"400"] > scaled(50)


def test_wrong_tokens_are_answered_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("streamseg.serving.connections.sleep", wait)
    wrong, right = post(b"/login", FORM, b"token=wrong"), f"token={TOKEN}".encode()
    with PageServer((), token=TOKEN) as server:
        for _ in range(8):
            assert b" 401 " in answer_of(server.port, wrong)
        assert waits == [0.25, 0.5, 1, 2, 4, 8, 8, 8]
        assert b" 303 " in answer_of(server.port, post(b"/login", FORM, right))
        assert len(waits) == 8
        answer_of(server.port, wrong)
        guess = b"GET /metrics HTTP/1.1\r\n" + HEAD.replace(TOKEN.encode(), b"guess") + b"\r\n"
        assert b" 401 " in answer_of(server.port, guess)
        assert waits[8:] == [0.25, 0.5]

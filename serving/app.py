"""What the server answers: page, pictures, buttons, metrics."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.web_protocol import RequestHandler
from prometheus_client import CONTENT_TYPE_LATEST

from streamseg.errors import StreamsegError
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.session.events import Event
from streamseg.serving.access import COOKIE, Access
from streamseg.serving.connections import Throttle
from streamseg.serving.label_messages import greeting
from streamseg.serving.prometheus import StreamCollector, expose
from streamseg.serving.view import StreamView, Viewer

BODY_LIMIT = 1024
MOST_VIEWERS = 32
MOST_SNAPSHOTS = 100
STREAM_LEFT = b"the stream left"
SEND_BUFFER = 1 << 17  # bytes
SEND_SECONDS = 20.0  # seconds after which a viewer that reads nothing is disconnected
READ_SECONDS = 10.0
ANSWER_SECONDS = 5.0
LIST_SECONDS = 2.0
GOODBYE_SECONDS = 0.5
HEADERS = {
    "Server": "streamseg",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
PAGES = {
    "index.html": "text/html",
    "login.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PageApp:
    """The server's answers; everything here runs in its event loop.

    Attributes:
        views: streams by name.
        watching: connections of viewers.

    Args:
        classes: of the bundle, for the legend.
        execution: what runs, human-readable.
        access: decides who may ask.
        snapshots: folder that the page's snapshots go to; None has no such button.
        encoded: returns how many pictures were encoded.
        healthy: whether the streams are being stepped.
    """

    def __init__(
        self,
        classes: Sequence[ClassInfo],
        execution: str,
        access: Access,
        snapshots: Path | None,
        encoded: Callable[[], int],
        healthy: Callable[[], bool],
    ) -> None:
        self.views: dict[str, StreamView] = {}
        self.watching: set[RequestHandler] = set()
        self._classes = [asdict(entry) for entry in classes]
        self._execution, self._access, self._snapshots = execution, access, snapshots
        self._healthy, self._encoded = healthy, encoded
        self._dropped = 0
        self._throttle = Throttle()
        self._sockets: set[web.WebSocketResponse] = set()
        self._viewers: set[Viewer] = set()
        self._readers: dict[Viewer, web.WebSocketResponse] = {}
        self._closing: set[asyncio.Future[bool]] = set()
        folder = files("streamseg.serving") / "page"
        # Read once: no request reaches the file system.
        self._pages = {name: (folder / name).read_bytes() for name in PAGES}
        self._collector = StreamCollector(self._stream_figures, self._page_figures)

    def build(self) -> web.Application:
        """The application with its routes and limits."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT)
        app.on_response_prepare.append(_set_headers)
        app.on_shutdown.append(self._hang_up)
        app.cleanup_ctx.append(self._list_streams)
        app.add_routes(
            [
                web.get("/", self._page("index.html"), allow_head=False),
                web.get("/page.js", self._page("page.js"), allow_head=False),
                web.get("/page.css", self._page("page.css"), allow_head=False),
                web.post("/login", self._login),
                web.get("/ws", self._watch, allow_head=False),
                web.get("/labels", self._read_labels, allow_head=False),
                web.get("/api/streams", self._streams, allow_head=False),
                web.post("/api/reset", self._reset),
                web.post("/api/snapshot", self._snapshot),
                web.get("/metrics", self._metrics, allow_head=False),
                web.get("/healthz", self._health, allow_head=False),
            ]
        )
        return app

    # Pages and access.

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._access.check(request)
        except web.HTTPUnauthorized:
            if "Authorization" in request.headers:
                await self._throttle.fail(_address(request))
            if (request.method, request.path) == ("GET", "/"):
                return self._answer("login.html", status=401)
            raise
        try:
            return await handler(request)
        except asyncio.TimeoutError:
            raise web.HTTPRequestTimeout(text="the request took too long to arrive\n") from None

    def _answer(self, name: str, status: int = 200) -> web.Response:
        body, kind = self._pages[name], PAGES[name]
        return web.Response(body=body, status=status, content_type=kind, charset="utf-8")

    def _page(self, name: str) -> Handler:
        async def answer(_request: web.Request) -> web.StreamResponse:
            return self._answer(name)

        return answer

    async def _login(self, request: web.Request) -> web.StreamResponse:
        form: Mapping[str, Any] = await _read_body(request.post())
        for field in form.values():
            if isinstance(field, web.FileField):
                field.file.close()
        given = form.get("token")
        if not isinstance(given, str) or not self._access.is_token(given.strip()):
            await self._throttle.fail(_address(request))
            return self._answer("login.html", status=401)
        self._throttle.forgive(_address(request))
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(COOKIE, self._access.cookie, httponly=True, samesite="Strict")
        return response

    # Figures.

    def _stream_figures(self) -> dict[str, Any]:
        return {name: view.metrics.read() for name, view in self.views.items()}

    def _page_figures(self) -> dict[str, int]:
        dropped = self._dropped + sum(viewer.dropped for viewer in self._viewers)
        return {"viewers": len(self._viewers), "encoded": self._encoded(), "dropped": dropped}

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=expose(self._collector), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        good = self._healthy()
        answer = {"status": "ok" if good else "stalled", "streams": len(self.views)}
        return web.json_response(answer, status=200 if good else 503)

    async def _streams(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response([view.describe() for view in self.views.values()])

    # Buttons.

    async def _view_named(self, request: web.Request) -> StreamView:
        """The stream that a button's request names."""
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="expected application/json\n")
        asked = await _read_body(request.json())
        try:
            view = self.views.get(asked["stream"])
        except (KeyError, TypeError):
            raise web.HTTPBadRequest(text='expected {"stream": NAME}\n') from None
        if view is None:
            raise web.HTTPNotFound(text="no such stream\n")
        return view

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        view = await self._view_named(request)
        return await _done(asyncio.wrap_future(view.request_reset()))

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        view = await self._view_named(request)
        if self._snapshots is None:
            raise web.HTTPConflict(text="the server was started without --snapshots\n")
        if len(list(self._snapshots.iterdir())) >= MOST_SNAPSHOTS:
            text = f"the folder of snapshots holds {MOST_SNAPSHOTS} files; remove some first\n"
            raise web.HTTPConflict(text=text)
        path = self._snapshots / f"{view.name}-{time.time_ns() // 1_000_000}.safetensors"
        return await _done(asyncio.wrap_future(view.request_snapshot(path)), file=path.name)

    # Viewers.

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        view = self.views.get(request.query.get("stream", ""))
        if view is None:
            view = next(iter(self.views.values()), None)
        async with self._connect(request) as (socket, viewer):
            viewer.tell(json.dumps({"hello": self._hello(view)}))
            if view is not None:
                view.attach(viewer)
            try:
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        _obey(viewer, message.data)
            finally:
                if view is not None:
                    view.detach(viewer)
        return socket

    async def _read_labels(self, request: web.Request) -> web.StreamResponse:
        """Labels of one stream for a program; see docs/label-stream.md."""
        name = request.query.get("stream")
        view = next(iter(self.views.values()), None) if name is None else self.views.get(name)
        if view is None:
            names = ", ".join(self.views) or "none"
            raise web.HTTPNotFound(text=f"no such stream; there are: {names}\n")
        async with self._connect(request) as (socket, reader):
            reader.tell(greeting(view.name, self._classes))
            view.attach_reader(reader)
            self._readers[reader] = socket
            if self.views.get(view.name) is not view:  # it left during the handshake
                self.remove(view)
            try:
                async for _ in socket:
                    pass  # nothing that a client says means anything
            finally:
                del self._readers[reader]
                view.detach_reader(reader)
        return socket

    @asynccontextmanager
    async def _connect(
        self, request: web.Request
    ) -> AsyncIterator[tuple[web.WebSocketResponse, Viewer]]:
        """A WebSocket whose viewer is sent what is newest, while inside."""
        if len(self._viewers) >= MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"viewer limit of {MOST_VIEWERS} reached\n")
        socket = web.WebSocketResponse(
            timeout=GOODBYE_SECONDS, heartbeat=20, max_msg_size=BODY_LIMIT, compress=False
        )
        try:
            await socket.prepare(request)
        except ValueError:
            raise web.HTTPBadRequest(text="the request's WebSocket key is not valid\n") from None
        _shorten_queue(request)
        wake = asyncio.Event()
        viewer = Viewer(wake.set)
        self._viewers.add(viewer)
        self._sockets.add(socket)
        self.watching.add(request.protocol)
        sending = asyncio.create_task(_send(request, socket, viewer, wake))
        try:
            yield socket, viewer
        finally:
            self._viewers.discard(viewer)
            self._sockets.discard(socket)
            self.watching.discard(request.protocol)
            self._dropped += viewer.dropped
            sending.cancel()

    def _hello(self, view: StreamView | None) -> dict[str, Any]:
        return {
            "stream": view.name if view else None,
            "classes": self._classes,
            "execution": self._execution,
            "snapshots": self._snapshots is not None,
            "streams": [entry.describe() for entry in self.views.values()],
            "events": list(view.events) if view else [],
        }

    async def _hang_up(self, _app: web.Application) -> None:
        await asyncio.gather(*(socket.close(code=1001) for socket in set(self._sockets)))

    async def _list_streams(self, _app: web.Application) -> Any:
        """Send every viewer from time to time which streams there are."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(LIST_SECONDS)
                if self._viewers:
                    entries = [view.describe() for view in self.views.values()]
                    text = json.dumps({"streams": entries})
                    for viewer in self._viewers - set(self._readers):
                        viewer.tell(text)

        task = asyncio.create_task(tell())
        yield
        task.cancel()

    def remove(self, view: StreamView) -> None:
        """Forget a stream; sockets of programs that read its labels end."""
        if self.views.get(view.name) is view:
            del self.views[view.name]
        for reader in view.readers:
            closing = self._readers[reader].close(code=WSCloseCode.GOING_AWAY, message=STREAM_LEFT)
            self._closing.add(task := asyncio.ensure_future(closing))
            task.add_done_callback(self._closing.discard)

    def show(self, view: StreamView, shot: bytes | str) -> None:
        """Give a picture to all that look at the stream, or labels to those that read them."""
        for viewer in list(view.viewers if isinstance(shot, bytes) else view.readers):
            viewer.show(shot)

    def report(self, event: Event) -> None:
        """Give an event to all that look at its stream."""
        view = self.views.get(event.stream)
        if view is not None:
            text = view.report(event)
            for viewer in [*view.viewers, *view.readers]:
                viewer.tell(text)


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers[name] = value


async def _read_body(reading: Awaitable[Any]) -> Any:
    """What a request's body holds; whatever its parser raises becomes an answer of 400."""
    try:
        return await asyncio.wait_for(reading, READ_SECONDS)
    except (asyncio.TimeoutError, web.HTTPException):
        raise
    except Exception:
        raise web.HTTPBadRequest(text="the request's body cannot be read\n") from None


def _address(request: web.Request) -> str:
    return request.remote or ""


async def _done(future: asyncio.Future[Event], **more: str) -> web.StreamResponse:
    try:
        event = await asyncio.wait_for(asyncio.shield(future), ANSWER_SECONDS)
    except StreamsegError as error:
        raise web.HTTPConflict(text=f"{error}\n") from None
    except asyncio.TimeoutError:
        raise web.HTTPGatewayTimeout(
            text="no response from the stream yet; the request is queued\n"
        ) from None
    return web.json_response({"event": asdict(event), **more})


def _shorten_queue(request: web.Request) -> None:
    """Keep the system from buffering seconds of pictures for a slow viewer."""
    connection = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)


async def _send(
    request: web.Request, socket: web.WebSocketResponse, viewer: Viewer, wake: asyncio.Event
) -> None:
    """Send what is newest, one message at a time, for as long as the viewer takes it."""
    while True:
        await wake.wait()
        wake.clear()
        texts, shot = viewer.take()
        try:
            for text in texts:
                await asyncio.wait_for(socket.send_str(text), SEND_SECONDS)
            if isinstance(shot, bytes):
                await asyncio.wait_for(socket.send_bytes(shot), SEND_SECONDS)
            elif shot is not None:
                await asyncio.wait_for(socket.send_str(shot), SEND_SECONDS)
        except (asyncio.TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            return


def _obey(viewer: Viewer, text: str) -> None:
    """Do what a viewer's message asks: ``{"compare": true}``; nothing else means anything."""
    if re.fullmatch(r'\{"compare": ?(true|false)\}', text):
        viewer.compares = "true" in text

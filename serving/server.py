"""The server: an event loop in a thread of its own, beside the streams."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from streamseg.errors import ServeError
from streamseg.files import make_folder
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.session.events import Event
from streamseg.runtime.sources import Frame
from streamseg.runtime.video.resize import Image
from streamseg.serving.access import Access
from streamseg.serving.app import PageApp
from streamseg.serving.connections import ConnectionGate, most_connections
from streamseg.serving.shots import ShotEncoder
from streamseg.serving.view import StreamView

logger = logging.getLogger(__name__)

HEADER_LIMIT = 4096  # bytes of the request line, and of each header
MOST_HEADERS = 64
IDLE_SECONDS = 10.0  # for the headers of a request, and between two requests
CLOSE_SECONDS = 2.0
TROUBLE_SECONDS = 5.0  # between two reports of the loop's failures
MOST_WAITING = 128  # connections that the system holds until they are accepted


class PageServer:
    """Serves the page until it is closed; ``offer`` and ``report`` never wait for a viewer.

    Args:
        classes: of the bundle.
        execution: what runs, human-readable.
        host: address to bind to; another one than this machine's own needs a token.
        port: to bind to; 0 takes a free one.
        token: that every request must present; None asks for none.
        snapshots: folder for the page's snapshots; made if it is missing. None: no such button.
        healthy: whether the streams are being stepped.

    Raises:
        ServeError: the address cannot be bound, the token is missing or too short, or the folder
            cannot be made.
    """

    def __init__(
        self,
        classes: Sequence[ClassInfo],
        execution: str = "",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        snapshots: Path | None = None,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        access = Access(host, token)
        if snapshots is not None:
            make_folder(snapshots, ServeError)
        self._encoder = ShotEncoder()
        self._app = PageApp(
            classes, execution, access, snapshots, lambda: self._encoder.encoded, healthy
        )
        self._host, self._port = host, port
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(
            self._app.build(),
            access_log=None,
            logger=_quiet_logger(),
            handle_signals=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=1.0,
            shutdown_timeout=0.5,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            max_headers=MOST_HEADERS,
        )
        self._loop.set_exception_handler(self._report_trouble)
        self._reported = -TROUBLE_SECONDS
        self._server: asyncio.Server | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._turn, name="streamseg-page", daemon=True)
        self._open()

    def _open(self) -> None:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._bind(), self._loop).result()
        except OSError as error:
            self._end_loop()
            raise ServeError(
                f"cannot serve on {self._host} port {self._port}: {error.strerror or error}; "
                "choose another --port or --host"
            ) from None
        self._encoder.start()

    def _turn(self) -> None:
        """Run the loop; what breaks out of it, such as a failure while logging, does not end it."""
        while not self._ending:
            try:
                self._loop.run_forever()
            except Exception as error:
                self._report_trouble(self._loop, {"message": "it stopped", "exception": error})
        if self._server is not None:  # where the loop hung, nothing else has freed the port
            self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_SECONDS / 2))

    def _report_trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what went wrong in the loop, not too often.

        Must not raise: asyncio would end the loop, for instance where logging itself fails because
        no descriptor is left.
        """
        now = time.monotonic()
        if now - self._reported < TROUBLE_SECONDS:
            return
        self._reported = now
        with contextlib.suppress(Exception):
            logger.warning(
                "the page's event loop: %s (%r)", context.get("message"), context.get("exception")
            )

    async def _bind(self) -> None:
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        gate = ConnectionGate(server, most_connections(), lambda: self._app.watching)
        try:
            # asyncio accepts as many at once as may wait; where descriptors run out, it also
            # starts again so many times. So one at once, and many that wait.
            self._server = await self._loop.create_server(gate, self._host, self._port, backlog=1)
            for listening in self._server.sockets:
                with socket.socket(fileno=os.dup(listening.fileno())) as twin:
                    twin.listen(MOST_WAITING)
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._server.sockets[0].getsockname()[1]

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._port

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/"

    def join(self, view: StreamView) -> None:
        """Show a stream."""
        self._call(lambda: self._app.views.__setitem__(view.name, view))

    def leave(self, view: StreamView) -> None:
        """Stop showing a stream; its viewers get no further pictures.

        Another stream of its name, which may have joined meanwhile, stays.
        """
        view.close()
        self._call(lambda: self._app.remove(view))

    def offer(self, view: StreamView, frame: Frame, labels: Image) -> None:
        """Take the labels of a stream's frame, in the thread that steps it."""
        view.offer(frame, labels, self._encoder, self._publish)

    def report(self, event: Event) -> None:
        """Show an event, from any thread."""
        self._call(lambda: self._app.report(event))

    def _publish(self, view: StreamView, shot: bytes | str) -> None:
        self._call(lambda: self._app.show(view, shot))

    def _call(self, action: Callable[[], object]) -> None:
        # Closed between two frames: nobody looks any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(action)

    def close(self) -> None:
        """Disconnect the viewers and free the port, in bounded time; closing twice is fine."""
        if self._loop.is_closed() or self._ending:
            return
        self._encoder.halt()
        farewell = asyncio.run_coroutine_threadsafe(self._leave(), self._loop)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            farewell.result(CLOSE_SECONDS)
        self._end_loop()

    async def _leave(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _end_loop(self) -> None:
        self._ending = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("the page's event loop does not stop; it is abandoned")
        else:
            self._loop.close()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_CLIENTS_FAULTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)


def _quiet_logger() -> logging.Logger:
    """A logger that passes the server's own failures and leaves out malformed requests.

    Their messages quote the request, and with it perhaps the token.
    """
    quiet = logging.getLogger(f"{__name__}.requests")
    if not quiet.filters:
        quiet.addFilter(_is_own_failure)
    return quiet


def _is_own_failure(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, _CLIENTS_FAULTS)

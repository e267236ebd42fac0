"""The server: an event loop in a thread of its own, beside the streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

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
from streamseg.serving.shots import ShotEncoder
from streamseg.serving.view import StreamView

HEADER_LIMIT = 4096  # bytes of the request line, and of each header
MOST_HEADERS = 64
IDLE_SECONDS = 30.0


class PageServer:
    """Serves the page until it is closed; ``offer`` and ``report`` never wait for a viewer.

    Args:
        classes: of the bundle.
        execution: what runs, for people.
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
            shutdown_timeout=1.0,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            max_headers=MOST_HEADERS,
        )
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="streamseg-page", daemon=True
        )
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

    async def _bind(self) -> None:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]

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

    def leave(self, name: str) -> None:
        """Show a stream no more; who looked at it gets no further pictures."""
        self._call(lambda: self._app.views.pop(name, None))

    def offer(self, view: StreamView, frame: Frame, labels: Image) -> None:
        """Take the labels of a stream's frame, in the thread that steps it."""
        view.offer(frame, labels, self._encoder, self._publish)

    def report(self, event: Event) -> None:
        """Show an event, from any thread."""
        self._call(lambda: self._app.report(event))

    def _publish(self, view: StreamView, shot: bytes) -> None:
        self._call(lambda: self._app.show(view, shot))

    def _call(self, action: Callable[[], object]) -> None:
        # Closed between two frames: nobody looks any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(action)

    def close(self) -> None:
        """Say goodbye to the viewers and free the port; closing twice is fine."""
        if self._loop.is_closed():
            return
        self._encoder.halt()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
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
    return not isinstance(error, HttpProcessingError)

"""Limits on connections and on guesses of the token."""

from __future__ import annotations

import asyncio
import resource
import time
from asyncio import sleep
from collections import OrderedDict
from collections.abc import Callable, Collection

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

MOST_CONNECTIONS = 512
LEAST_CONNECTIONS = 8
FIRST_DELAY, LONGEST_DELAY = 0.25, 8.0  # seconds that a wrong token is answered late
FORGIVEN = 60.0  # seconds without a wrong token after which an address starts again
MOST_ADDRESSES = 1024


def most_connections() -> int:
    """A quarter of the descriptors that this process may open; the streams need the others."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, soft // 4))


class ConnectionGate:
    """Makes the protocol of a new connection; where there are too many, the oldest one ends.

    So a visitor is let in however many others connect and say nothing.

    Args:
        server: makes protocols and knows those that are connected.
        most: connections at once.
        kept: those that must not end.
    """

    def __init__(
        self, server: web.Server, most: int, kept: Callable[[], Collection[RequestHandler]]
    ) -> None:
        self._server, self._most, self._kept = server, most, kept

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a connection that was just accepted."""
        held = [one for one in self._server.connections if one.transport is not None]
        if len(held) >= self._most:
            kept = self._kept()
            oldest = next((one for one in held if one not in kept), None)
            if oldest is None:
                return _Refusal()
            oldest.force_close()
        return self._server()


class _Refusal(asyncio.Protocol):
    """Ends its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the descriptor back."""
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class Throttle:
    """Slows down who presents wrong tokens, by address; addresses are forgotten after a while."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def fail(self, address: str) -> None:
        """Count a wrong token and wait, twice as long each time."""
        now = time.monotonic()
        count, last = self._failures.pop(address, (0, now))
        count = 1 if now - last > FORGIVEN else count + 1
        self._failures[address] = count, now
        if len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)
        await sleep(min(FIRST_DELAY * 2.0 ** min(count - 1, 16), LONGEST_DELAY))

    def forgive(self, address: str) -> None:
        """Forget the wrong tokens of an address that has the right one."""
        self._failures.pop(address, None)

"""Redirects of HTTP sources, followed here so that none leads into a private network.

FFmpeg would follow them wherever they point, and a camera's server could have this machine fetch
pages of its own network.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import socket
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from streamseg.errors import SourceError, raised_as
from streamseg.redaction import printable, redact
from streamseg.runtime.sources.reader import UnusableSource

MOST_REDIRECTS = 8
_MOVED = (301, 302, 303, 307, 308)


def follow_redirects(address: str, *, timeout: float, private: bool) -> str:
    """Where an address leads in the end; the address itself where its server does not redirect.

    Args:
        address: of a source, http or https.
        timeout: seconds for each request.
        private: follow redirects to private addresses of other hosts, too.
    Raises:
        UnusableSource: such a redirect, one to another kind of address, or too many.
        SourceError: a server does not answer.
    """
    for _ in range(MOST_REDIRECTS + 1):
        with raised_as(SourceError, printable(redact(address))):
            target = _next_address(urlsplit(address), timeout)
        if target is None:
            return address
        with raised_as(UnusableSource, f"what {printable(redact(address))} redirects to"):
            target = urljoin(address, target)
        _check(address, target, private=private)
        address = target
    raise UnusableSource(f"{printable(redact(address))}: more than {MOST_REDIRECTS} redirects")


def _next_address(url: SplitResult, timeout: float) -> str | None:
    """The address that a server redirects to; nothing of its answer but the head is read."""
    secure = url.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=timeout)
    headers = {"Accept": "*/*", "Connection": "close"}
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    try:
        connection.request(
            "GET", (url.path or "/") + ("?" + url.query if url.query else ""), headers=headers
        )
        answer = connection.getresponse()
        return answer.headers["Location"] if answer.status in _MOVED else None
    finally:
        connection.close()


def _check(address: str, target: str, *, private: bool) -> None:
    """Raise UnusableSource where a redirect must not be followed."""
    shown = f"{printable(redact(address))} redirects to {printable(redact(target))}"
    with raised_as(UnusableSource, shown):
        before, after = urlsplit(address), urlsplit(target)
        if after.scheme not in ("http", "https") or not after.hostname:
            raise UnusableSource(f"{shown}; expected an http or https address")
        if private or after.hostname == before.hostname:
            return
        found = socket.getaddrinfo(after.hostname, after.port or 80, type=socket.SOCK_STREAM)
        for entry in found:
            if not _is_public(str(entry[4][0])):
                raise UnusableSource(
                    f"{shown}, another host in a private network ({entry[4][0]}); where that is "
                    "meant, name that address as the source or add #private-redirects"
                )


def _is_public(text: str) -> bool:
    ip = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast

"""Access: token, cookie, and the origins that a browser may come from."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from streamseg.errors import ServeError

COOKIE = "streamseg"
LEAST_TOKEN = 16
OPEN_ROUTES = frozenset({("GET", "/healthz"), ("POST", "/login"), ("GET", "/page.css")})
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAKE_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe(24))' > token"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token that a file holds.

    Raises:
        ServeError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ServeError(
            f"cannot read the token in {path}: {reason}. Make one with: {MAKE_TOKEN}"
        ) from None


class Access:
    """Decides on every request.

    Args:
        host: address that the server binds to.
        token: what a request must present; None where only this machine reaches the server.

    Raises:
        ServeError: no token for a server that others reach, or one that is easily guessed.
    """

    def __init__(self, host: str, token: str | None) -> None:
        if token is None and not is_loopback(host):
            raise ServeError(
                f"a page on {host} is seen by others and needs a token: give --token-file, or set "
                f"STREAMSEG_TOKEN. Make one with: {MAKE_TOKEN}"
            )
        if token is not None and len(token) < LEAST_TOKEN:
            raise ServeError(
                f"the token has {len(token)} characters, expected {LEAST_TOKEN} or more. "
                f"Make one with: {MAKE_TOKEN}"
            )
        self._token = None if token is None else token.encode()

    @property
    def cookie(self) -> str:
        """What a browser keeps: made from the token, which it does not reveal."""
        return hmac.new(self._token or b"", b"streamseg page", hashlib.sha256).hexdigest()

    def is_token(self, given: str) -> bool:
        """Compare with the token, in the same time whatever is given."""
        if self._token is None:
            return True
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def check(self, request: web.Request) -> None:
        """Let a request pass.

        Raises:
            HTTPForbidden: it comes from another site's page.
            HTTPUnauthorized: token and cookie are missing or wrong.
        """
        self._check_site(request)
        if (request.method, request.path) not in OPEN_ROUTES and not self._is_known(request):
            raise web.HTTPUnauthorized(
                headers={"WWW-Authenticate": "Bearer"}, text="a valid token is required\n"
            )

    def _check_site(self, request: web.Request) -> None:
        # Any page in the user's browser can reach 127.0.0.1; neither a foreign page nor a foreign
        # name that resolves to this machine may use the server.
        host = request.headers.get("Host", "")
        if self._token is None and _name_of(f"//{host}") not in LOCAL_NAMES:
            raise web.HTTPForbidden(text="this server answers to localhost only\n")
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise web.HTTPForbidden(text="requests of other sites' pages are refused\n")

    def _is_known(self, request: web.Request) -> bool:
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        cookie = request.cookies.get(COOKIE, "")
        return hmac.compare_digest(cookie.encode("utf-8", "surrogateescape"), self.cookie.encode())


def _name_of(netloc: str) -> str | None:
    try:
        return urlsplit(netloc).hostname
    except ValueError:
        return None

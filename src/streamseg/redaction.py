"""Passwords of source addresses, kept out of names, messages, events and logs.

Everything here takes time in proportion to the text, whatever the text is: it runs on every log
record, and texts come from files, cameras and visitors.
"""

from __future__ import annotations

import logging
import re
import traceback

HIDDEN = "***"
LIMIT = 1 << 16  # characters; what follows is left out
_CUT = " ... (cut)"
_SCHEME = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?//")
_USER_WITHOUT_SCHEME = re.compile(r"[^/:@\s]*:\S*@")
_SPACES = re.compile(r"(\s+)")
# Parts of a query whose values are shown; any other may be a secret.
_HARMLESS = frozenset(
    (
        "ch",
        "channel",
        "codec",
        "format",
        "height",
        "profile",
        "quality",
        "resolution",
        "size",
        "stream",
    )
    + ("subtype", "unicast", "width", "fps", "frames", "noise", "scenes", "seed", "start", "loop")
    + ("realtime", "live", "timeout", "reconnect", "backoff", "await-source", "transport", "decode")
    + (
        "decode-threads",
        "private-redirects",
        "fifo_size",
        "overrun_nonfatal",
        "pkt_size",
        "localport",
        "ttl",
    )
)
_HARMLESS_VALUE = re.compile(r"[A-Za-z0-9_.:,'\"x)-]{0,32}")
_PLAIN_KEY = re.compile(r"[\w.%-]{1,32}")
_SEPARATOR = re.compile(r"([&;#])")
# Cameras take passwords in queries and even in paths; GStreamer elements as properties.
_KEY = re.compile(r"(?<![\w-])([\w-]+)[\"']?\s*(?:=|%3D|:\s)\s*", re.IGNORECASE)
_SECRET = re.compile(
    "pass|pwd|pw|token|secret|auth|credential|signature|sig|api[-_]?key|access[-_]?key|jwt|cookie",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"\*\*\*(?=[\s,)}\]&;#]|$)|\"[^\"]*\"|'[^']*'|(?:bearer|basic|digest)\s+[^\s&;#]+|[^\s&;#]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The address or message with every user, password and token in it replaced by ``***``.

    What is between ``//`` and the last ``@`` goes, and so do the values in an address's query
    unless their keys are known to be harmless, and values of keys such as ``password=``. Where an
    address is ambiguous too much is hidden, not too little. Long texts are cut.
    """
    if len(text) > LIMIT:
        text = text[: LIMIT - len(_CUT)] + _CUT
    text = _hide_user(text)
    if "?" in text or "//" in text:
        text = "".join(map(_hide_in_word, _SPACES.split(text)))
    return _hide_secrets(text)


def printable(text: str) -> str:
    """The text on one line: control characters and undecoded bytes as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _hide_user(text: str) -> str:
    """Hide the user of a text that is an address: its password may hold spaces."""
    end = text.rfind("@")
    if (match := _SCHEME.match(text)) and end >= match.end():
        return text[: match.end()] + HIDDEN + text[end:]
    if match := _USER_WITHOUT_SCHEME.match(text):
        return HIDDEN + text[match.end() - 1 :]
    return text


def _hide_in_word(word: str) -> str:
    """Hide user and query of the address in a word."""
    scheme, mark, rest = word.partition("//")
    if not mark:
        address, question, query = word.partition("?")
        return address + question + _hide_query(query) if "=" in query else word
    user, at, place = rest.rpartition("@")
    kept = HIDDEN + at if at else user
    start = _query_start(place)
    return scheme + mark + kept + place[:start] + _hide_query(place[start:])


def _query_start(place: str) -> int:
    """Where in an address without user what may be a query begins; cameras have them in paths."""
    end = min((place.index(mark) for mark in "?#" if mark in place), default=len(place))
    path = place[:end]
    return path.rfind("/", 0, path.index("=")) + 1 if "=" in path else end + 1


def _hide_query(query: str) -> str:
    return "".join(
        part if index % 2 else _hide_item(part)
        for index, part in enumerate(_SEPARATOR.split(query))
    )


def _hide_item(item: str) -> str:
    key, _, value = item.partition("=")
    if not item or (key.lower() in _HARMLESS and _HARMLESS_VALUE.fullmatch(value)):
        return item
    # A token alone may end in "=" and hold more of them.
    return f"{key}={HIDDEN}" if value and _PLAIN_KEY.fullmatch(key) else HIDDEN


def _hide_secrets(text: str) -> str:
    """Hide the values of keys that sound like secrets, wherever they stand."""
    shown, place = [], 0
    for key in _KEY.finditer(text):
        if key.start() < place or not _SECRET.search(key[1]):
            continue
        value = _VALUE.match(text, key.end())
        if value is not None:
            shown += [text[place : key.end()], HIDDEN]
            place = value.end()
    return "".join(shown) + text[place:]


class RedactingFilter(logging.Filter):
    """Redacts every message and traceback that passes a log handler, FFmpeg's lines among them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's texts; lets every record through."""
        try:
            text = record.getMessage()
        except Exception as error:  # whoever logged must not fail by its own format
            text = f"{record.msg!r} cannot be filled in: {error}"
        record.msg, record.args = redact(text), None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.exc_info = None
        record.exc_text = redact(record.exc_text) if record.exc_text else None
        record.stack_info = redact(record.stack_info) if record.stack_info else None
        return True

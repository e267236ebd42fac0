"""Passwords of source addresses, kept out of names, messages, events and logs."""

from __future__ import annotations

import logging
import re

HIDDEN = "***"
# Everything between :// and the last @ of the word: a password may hold / ? # : and @ unescaped.
_ADDRESS = re.compile(r"\A[a-zA-Z][a-zA-Z0-9+.-]*://.*@", re.DOTALL)
_USER_IN_TEXT = re.compile(r"(?<=://)\S*@")
_USER_WITHOUT_SCHEME = re.compile(r"\A[^/:@\s]*:\S*@")
# Cameras take passwords in queries and even in paths; GStreamer elements as properties.
_SECRET = re.compile(
    r"([\w-]*(?:pass|pwd|pw|token|secret|auth|credential|signature|sig|apikey|api[-_]key)[\w-]*"
    r"\s*(?:=|%3D|:\s)\s*)(\"[^\"]*\"|'[^']*'|[^\s&;#]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The address or message with every user, password and token in it replaced by ``***``.

    What is between ``://`` and the last ``@`` goes, and so do values of keys such as
    ``password=`` and ``token=``; where an address is ambiguous too much is hidden, not too little.
    """
    if match := _ADDRESS.match(text):
        start = text.index("://") + 3
        text = text[:start] + HIDDEN + text[match.end() - 1 :]
    elif match := _USER_WITHOUT_SCHEME.match(text):
        text = HIDDEN + text[match.end() - 1 :]
    text = _USER_IN_TEXT.sub(HIDDEN + "@", text)
    return _SECRET.sub(lambda found: found[1] + HIDDEN, text)


class RedactingFilter(logging.Filter):
    """Redacts every message that passes a log handler, FFmpeg's own lines among them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's message; lets every record through."""
        record.msg, record.args = redact(record.getMessage()), None
        return True

"""Options of earlier versions, and what to write instead."""

from __future__ import annotations

SET = "write --set {}=VALUE"
SETTINGS = {
    "--window": SET.format("window"),
    "--shift": SET.format("shift"),
    "--keep-ratio": SET.format("keep_ratio"),
    "--key-every": SET.format("key_interval"),
}
SOURCES = {"--source": "name the source after the bundle, as in 'streamseg {} BUNDLE SOURCE'"}


def source_of(command: str) -> dict[str, str]:
    """The hint for ``--source`` in a command that takes sources as arguments."""
    return {flag: text.format(command) for flag, text in SOURCES.items()}

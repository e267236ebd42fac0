"""Where the page is served, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamseg.destinations import FOLDER
from streamseg.errors import ServeError
from streamseg.option_fields import check_options, option

TOKEN_VARIABLE = "STREAMSEG_TOKEN"


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where the page is served, and to whom.

    Raises:
        ServeError: a value is out of its range.
    """

    host: str = option("Address to listen on.", default="127.0.0.1", common=True)
    port: int = option(
        "Port to listen on; 0 takes a free one.", default=8000, low=0, high=65535, common=True
    )
    token_file: Path | None = option(
        f"File with the token that visitors need; or set {TOKEN_VARIABLE}.", default=None
    )
    snapshots: Path | None = option(
        "Folder for snapshots taken with the page's button.", default=None, written=FOLDER
    )

    def __post_init__(self) -> None:
        check_options(self, ServeError)

"""What a kind of source has to offer: pictures, one after the other, until it ends or fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from streamseg.errors import SourceError
from streamseg.runtime.video.resize import Image, Size


class UnusableSource(SourceError):
    """The source cannot work on this machine; trying again would not help."""


@dataclass(frozen=True)
class Picture:
    """One picture of a reader.

    Attributes:
        load: gives it as (height, width, 3) uint8 RGB; called at most once, before the next read.
        size: (height, width).
        time: seconds, as the source gives it; None without one.
        received: when this machine had its data, seconds of ``time.monotonic``.
        truth: see ``Frame``.
    """

    load: Callable[[], Image]
    size: Size
    time: float | None
    received: float = field(default_factory=monotonic)
    truth: Image | None = None


class Reader(Protocol):
    """An open file, device or connection; used by one thread at a time."""

    @property
    def fps(self) -> float:
        """Nominal frames a second."""

    @property
    def live(self) -> bool:
        """Pictures come at their own time, and an end is a loss."""

    @property
    def frame_count(self) -> int | None:
        """How many pictures to expect; None when unknown or endless."""

    @property
    def corrupt(self) -> int:
        """Damaged packets and pictures skipped so far."""

    @property
    def detail(self) -> str:
        """What reads and decodes, a phrase; empty where there is nothing to say."""

    def read(self) -> Picture | None:
        """Next picture, None at the end; raises SourceError where the source fails."""

    def close(self) -> None:
        """Release everything; called once."""
